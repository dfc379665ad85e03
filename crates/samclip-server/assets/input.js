// The pointer on the stage: clicks, boxes, strokes, pan, pinch, wheel, hover. Mouse, pen and touch alike.

import * as actions from './actions.js';
import { net } from './api.js';
import { saveSettings, settings } from './db.js';
import { byId } from './dom.js';
import { emit, on } from './events.js';
import { askPreview, stopPreview } from './jobs.js';
import * as modes from './modes.js';
import { activate, activeObject, COLOURS, current, isHidden, maskOf, objects } from './store.js';
import { contains } from './rle.js';
import { devicePoint, pan, photoPoint, redraw, view, zoom } from './view.js';

const stage = byId('stage');
const DRAG = 5, LONG_PRESS = 550;

/** The tool in hand: 'click' | 'brush' | 'erase' | 'pan'; `removing` turns plain clicks into removing ones. */
export const tool = { name: 'click', removing: false, space: false };

let gesture = null; // {kind, ...} between pointer down and up
const touches = new Map(); // pointer id -> device point

export function setTool(name) {
  cancel();
  tool.name = name;
  if (name !== 'click') modes.leave();
  forgetHover();
  emit('tool');
}

export function setRemoving(removing) {
  tool.removing = removing;
  emit('tool');
}

/** Gives up what is being drawn. True when there was something. */
export function cancel() {
  const had = Boolean(gesture && gesture.kind !== 'pan' || view.draft || view.cursorCorner);
  clearTimeout(gesture?.press);
  gesture = null;
  Object.assign(view, { draft: null, cursorCorner: null });
  redraw('masks', 'marks');
  return had;
}

const pixel = ([x, y]) => [Math.floor(x), Math.floor(y)];
const inside = (photo, [x, y]) => x >= 0 && y >= 0 && x < photo.width && y < photo.height;
const brushing = () => tool.name === 'brush' || tool.name === 'erase';

function down(event) {
  const photo = current();
  if (!photo?.width) return;
  stage.classList.add('pointed');
  stage.focus({ preventScroll: true });
  hideKeyboardCursor();
  try {
    stage.setPointerCapture(event.pointerId);
  } catch { /* the pointer is gone already */ }
  if (event.pointerType === 'touch') {
    touches.set(event.pointerId, devicePoint(event));
    if (touches.size === 2) return startPinch();
    if (touches.size > 2) return;
  }
  const start = photoPoint(event);
  if (event.button === 1 || tool.space || tool.name === 'pan') gesture = { kind: 'pan', last: devicePoint(event) };
  else if (brushing() && event.button !== 1) startStroke(photo, start, event);
  else startClick(start, event);
  if (event.button === 1) event.preventDefault();
}

function startClick(start, event) {
  const negative = event.button === 2 || event.altKey || event.ctrlKey || tool.removing;
  gesture = { kind: 'click', start, from: [event.clientX, event.clientY], label: negative ? 0 : 1, shift: event.shiftKey, button: event.button };
  if (event.pointerType === 'touch' && !modes.mode.name) {
    gesture.press = setTimeout(() => {
      if (gesture?.kind !== 'click') return;
      gesture = { kind: 'done' };
      navigator.vibrate?.(15);
      clickAt(start, 0);
    }, LONG_PRESS);
  }
}

function startStroke(photo, start, event) {
  if (!inside(photo, start) && !inside(photo, [Math.min(Math.max(start[0], 0), photo.width - 1), start[1]])) return;
  const erase = (tool.name === 'erase') !== (event.button === 2 || event.altKey);
  gesture = { kind: 'stroke' };
  view.draft = { stroke: true, path: [start], radius: settings.brush / 2, erase };
  redraw('masks');
}

function startPinch() {
  cancel();
  const [a, b] = [...touches.values()];
  gesture = { kind: 'pinch', distance: Math.hypot(a[0] - b[0], a[1] - b[1]), middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
}

function move(event) {
  const photo = current();
  if (!photo) return;
  if (touches.has(event.pointerId)) touches.set(event.pointerId, devicePoint(event));
  if (gesture?.kind === 'pinch') return pinch();
  const point = photoPoint(event);
  view.pointer = point;
  emit('pointer', point);
  if (gesture?.kind === 'pan') return drag(event);
  if (gesture?.kind === 'stroke') return extend(event);
  if (gesture?.kind === 'click') return maybeBox(photo, event, point);
  hover(photo, event, point);
}

function drag(event) {
  const to = devicePoint(event);
  pan(to[0] - gesture.last[0], to[1] - gesture.last[1]);
  gesture.last = to;
}

function pinch() {
  if (touches.size < 2) return;
  const [a, b] = [...touches.values()];
  const distance = Math.hypot(a[0] - b[0], a[1] - b[1]), middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  pan(middle[0] - gesture.middle[0], middle[1] - gesture.middle[1]);
  zoom(distance / Math.max(gesture.distance, 1), middle[0], middle[1]);
  Object.assign(gesture, { distance, middle });
}

function extend(event) {
  const steps = event.getCoalescedEvents?.() || [];
  for (const step of steps.length ? steps : [event]) view.draft.path.push(photoPoint(step));
  view.brushCursor = photoPoint(event);
  redraw('masks', 'marks');
}

function maybeBox(photo, event, point) {
  const far = Math.hypot(event.clientX - gesture.from[0], event.clientY - gesture.from[1]) > DRAG;
  if (!far && !view.draft) return;
  clearTimeout(gesture.press);
  if (gesture.button !== 0 || modes.mode.name) return;
  view.draft = { box: boxOf(photo, gesture.start, point) };
  redraw('masks', 'marks');
}

/** A box in whole pixels inside the photo. */
function boxOf(photo, a, b) {
  const x = [a[0], b[0]].map((v) => Math.min(Math.max(Math.round(v), 0), photo.width)).sort((p, q) => p - q);
  const y = [a[1], b[1]].map((v) => Math.min(Math.max(Math.round(v), 0), photo.height)).sort((p, q) => p - q);
  return [x[0], y[0], x[1], y[1]];
}

function up(event) {
  touches.delete(event.pointerId);
  const photo = current(), ended = gesture;
  if (!ended || !photo) return;
  clearTimeout(ended.press);
  if (ended.kind === 'pinch') return void (touches.size === 0 && (gesture = null));
  const draft = view.draft;
  gesture = null;
  view.draft = null;
  redraw('masks', 'marks');
  if (event.type === 'pointercancel') return;
  if (ended.kind === 'stroke') actions.brush(photo, draft.path, draft.radius, draft.erase);
  else if (ended.kind === 'click' && draft?.box) finishBox(photo, draft.box);
  else if (ended.kind === 'click') clickAt(ended.start, ended.label, ended.shift);
}

function finishBox(photo, box) {
  if (box[2] - box[0] < 2 || box[3] - box[1] < 2) return;
  forgetHover();
  actions.drawBox(photo, box);
}

/** What a click does here, in the mode of the moment. */
export function clickAt(point, label, select = false) {
  const photo = current();
  if (!photo || !inside(photo, point)) return;
  if (modes.mode.name === 'everything') return modes.pickAt(pixel(point));
  if (modes.mode.name) modes.leave();
  if (select) return selectAt(photo, pixel(point));
  view.preview = null;
  actions.click(photo, ...pixel(point), label);
}

/** The smallest visible object under a pixel becomes active. */
function selectAt(photo, [x, y]) {
  const hit = objects(photo).filter((object) => {
    const mask = !isHidden(photo, object) && maskOf(photo, object);
    return mask && contains(mask, x, y);
  });
  if (hit.length) activate(photo, hit[hit.length - 1].id);
}

let hoverTimer = 0;

function hover(photo, event, point) {
  if (brushing()) {
    view.brushCursor = point;
    return redraw('marks');
  }
  if (modes.mode.name === 'everything') return modes.hoverAt(inside(photo, point) ? pixel(point) : null);
  if (event.pointerType === 'touch' || tool.name !== 'click' || modes.mode.name) return;
  clearTimeout(hoverTimer);
  if (!settings.preview || net.phase !== 'online' || !inside(photo, point)) return forgetHover();
  // A short rest, so that a pointer that only passes by asks for nothing.
  hoverTimer = setTimeout(() => showPreview(photo, pixel(point), event.altKey || tool.removing ? 0 : 1), 40);
}

function showPreview(photo, [x, y], label) {
  const object = activeObject(photo);
  if (label === 0 && !object?.prompt) return;
  const near = 10 * view.ratio / view.scale;
  if (object?.prompt?.points.some((at) => Math.hypot(at[0] - x, at[1] - y) < near)) return forgetHover();
  const colour = object?.colour || COLOURS[photo.document.made % COLOURS.length];
  askPreview(photo, actions.promptWith(photo, [x, y, label]), (answer) => {
    if (current() !== photo || gesture || !view.pointer) return;
    view.preview = answer && { mask: answer.mask, colour };
    redraw('masks');
  });
}

function forgetHover() {
  clearTimeout(hoverTimer);
  stopPreview();
  if (view.preview || view.brushCursor) {
    view.preview = null;
    view.brushCursor = null;
    redraw('masks', 'marks');
  }
}

function leave() {
  view.pointer = null;
  emit('pointer', null);
  forgetHover();
  if (modes.mode.name === 'everything') modes.hoverAt(null);
}

function wheel(event) {
  if (!current()) return;
  event.preventDefault();
  const unit = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
  if (event.shiftKey && !event.ctrlKey) return pan(-(event.deltaX || event.deltaY) * unit * view.ratio, 0);
  const speed = event.ctrlKey ? 0.01 : 0.0016; // a pinch on a touch pad comes as a wheel with Ctrl
  zoom(Math.exp(-event.deltaY * unit * speed), ...devicePoint(event));
}

/** The keyboard's cursor on the photo, in whole pixels. */
export function keyboardCursor() {
  const photo = current();
  if (!view.cursor && photo?.width) {
    const x = (view.width / 2 - view.left) / view.scale, y = (view.height / 2 - view.top) / view.scale;
    view.cursor = [Math.min(Math.max(Math.floor(x), 0), photo.width - 1), Math.min(Math.max(Math.floor(y), 0), photo.height - 1)];
  }
  return view.cursor;
}

function hideKeyboardCursor() {
  view.cursor = null;
  view.cursorCorner = null;
}

export function setBrush(size) {
  saveSettings({ brush: Math.min(Math.max(Math.round(size), 1), 400) });
  emit('settings');
}

export function start() {
  stage.addEventListener('pointerdown', down);
  stage.addEventListener('keydown', () => stage.classList.remove('pointed'));
  stage.addEventListener('pointermove', move);
  stage.addEventListener('pointerup', up);
  stage.addEventListener('pointercancel', up);
  stage.addEventListener('pointerleave', leave);
  stage.addEventListener('wheel', wheel, { passive: false });
  stage.addEventListener('contextmenu', (event) => event.preventDefault());
  stage.addEventListener('auxclick', (event) => event.preventDefault());
  on('photos', () => { cancel(); hideKeyboardCursor(); });
  on('document', () => { view.preview = null; });
}
