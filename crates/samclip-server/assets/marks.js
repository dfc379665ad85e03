// The marks above the masks: clicks and box of the active object, the box or brush in the making, the cursor.

import { settings } from './db.js';
import { activeObject, isHidden } from './store.js';

const GOOD = '#37d67a', BAD = '#ff5d5d';

export function drawMarks(context, view, photo) {
  const object = activeObject(photo);
  const at = ([x, y]) => [x * view.scale + view.left, y * view.scale + view.top];
  context.setTransform(1, 0, 0, 1, 0, 0);
  if (object?.prompt && !isHidden(photo, object) && !view.mode) {
    if (object.prompt.box && !object.prompt.mask) box(context, view, at, object.prompt.box, object.colour, false);
    for (const [x, y, label] of object.prompt.points) point(context, view, at([x + 0.5, y + 0.5]), label);
  }
  if (view.draft?.box) box(context, view, at, view.draft.box, '#ffffff', true);
  if (view.brushCursor) brush(context, view, at(view.brushCursor));
  if (view.cursor) cross(context, view, at([view.cursor[0] + 0.5, view.cursor[1] + 0.5]));
}

function point(context, { ratio }, [x, y], label) {
  const radius = 6 * ratio;
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fillStyle = label ? GOOD : BAD;
  context.fill();
  context.lineWidth = 1.5 * ratio;
  context.strokeStyle = '#ffffff';
  context.stroke();
  // Plus or minus, so that the colour is not the only sign.
  context.strokeStyle = '#101216';
  context.beginPath();
  context.moveTo(x - radius / 2, y);
  context.lineTo(x + radius / 2, y);
  if (label) {
    context.moveTo(x, y - radius / 2);
    context.lineTo(x, y + radius / 2);
  }
  context.stroke();
}

function box(context, { ratio }, at, [x0, y0, x1, y1], colour, draft) {
  const [left, top] = at([x0, y0]), [right, bottom] = at([x1, y1]);
  for (const [style, width, dash] of [['rgba(0, 0, 0, 0.6)', 3, []], [colour, 1.5, draft ? [6, 4] : []]]) {
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    context.setLineDash(dash.map((length) => length * ratio));
    context.strokeRect(left, top, right - left, bottom - top);
  }
  context.setLineDash([]);
}

function brush(context, view, [x, y]) {
  const radius = settings.brush / 2 * view.scale;
  for (const [style, width] of [['rgba(0, 0, 0, 0.7)', 3], ['#ffffff', 1.25]]) {
    context.beginPath();
    context.arc(x, y, Math.max(radius, 2), 0, 7);
    context.strokeStyle = style;
    context.lineWidth = width * view.ratio;
    context.stroke();
  }
}

function cross(context, { ratio }, [x, y]) {
  for (const [style, width] of [['rgba(0, 0, 0, 0.8)', 4], ['#ffffff', 1.75]]) {
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 4 * ratio, y + dy * 4 * ratio);
      context.lineTo(x + dx * 14 * ratio, y + dy * 14 * ratio);
    }
    context.stroke();
  }
}
