// The stage: photo, masks and marks on three canvases of the screen's own resolution, with zoom and pan.
//
// A photo pixel (x, y) is drawn at x * scale + left, y * scale + top in device pixels. Only what changed is drawn, once
// per frame: the photo when the view moves, masks when they change, marks when the pointer moves.

import { settings } from './db.js';
import { byId } from './dom.js';
import { emit, on } from './events.js';
import { keep, picture } from './masks.js';
import { decodeError, levels } from './photo.js';
import { activeObject, current, isHidden, maskOf, objects } from './store.js';
import { drawMarks } from './marks.js';

const stage = byId('stage');
const canvases = ['photo-layer', 'mask-layer', 'mark-layer'].map(byId);
const [photoContext, maskContext, markContext] = canvases.map((canvas) => canvas.getContext('2d'));
const scratch = document.createElement('canvas').getContext('2d');

/** scale, left, top in device pixels; `pointer`, `cursor` in photo pixels; `draft` what is being drawn. */
export const view = {
  scale: 1, left: 0, top: 0, fitted: true, width: 0, height: 0, ratio: 1, shown: null,
  pointer: null, cursor: null, draft: null, preview: null,
  moving: false, // the view is being zoomed or moved
  overlay: null, // drawn over the masks by a mode: a function (context, view)
  mode: null, // 'everything' or 'heat': masks step back
};

const dirty = { photo: true, masks: true, marks: true };
let frame = 0;

/** Asks for a new frame of some layers. */
export function redraw(...layers) {
  for (const layer of layers.length ? layers : ['photo', 'masks', 'marks']) dirty[layer] = true;
  if (!frame) frame = requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  const photo = current();
  if (photo && view.shown !== photo.id && levels(photo)) {
    view.shown = photo.id;
    keep(`${photo.id}/`);
    fit();
  }
  const ready = photo && levels(photo);
  stage.classList.toggle('loading', Boolean(photo && !ready && !decodeError(photo)));
  if (dirty.photo) drawPhoto(ready ? photo : null);
  if (dirty.masks) drawMasks(ready ? photo : null);
  if (dirty.marks) {
    clear(markContext);
    if (ready) drawMarks(markContext, view, photo);
  }
  Object.assign(dirty, { photo: false, masks: false, marks: false });
}

function clear(context) {
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
}

/** Coordinates of `context` become photo pixels. */
export function toPhoto(context) {
  context.setTransform(view.scale, 0, 0, view.scale, view.left, view.top);
}

/** Draws a mask's picture (masks.js) where it is in the photo. */
export function drawPicture(context, { bitmap, x, y, step }) {
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, x, y, bitmap.width * step, bitmap.height * step);
}

function drawPhoto(photo) {
  clear(photoContext);
  if (!photo) return;
  const bitmaps = levels(photo);
  let level = 0;
  while (level + 1 < bitmaps.length && view.scale * 2 ** (level + 1) <= 1) level++;
  toPhoto(photoContext);
  photoContext.imageSmoothingEnabled = view.scale < 3;
  photoContext.drawImage(bitmaps[level], 0, 0, photo.width, photo.height);
}

/** Starts on the active object's picture before the next frame asks for it. */
function prepare(photo) {
  const object = photo === current() && activeObject(photo);
  const mask = object && maskOf(photo, object);
  if (mask) picture(`${photo.id}/${object.id}`, mask, object.colour, true);
}

function drawMasks(photo) {
  clear(maskContext);
  if (!photo) return;
  const active = activeObject(photo);
  const shown = objects(photo).filter((object) => !isHidden(photo, object));
  const quiet = view.mode ? 0.35 : 1;
  if (view.mode === 'heat') return view.overlay?.(maskContext, view);
  for (const object of shown) if (object !== active) drawObject(photo, object, false, quiet);
  if (view.overlay) view.overlay(maskContext, view);
  if (active && shown.includes(active)) drawObject(photo, active, true, quiet);
  else drawStrokeAlone(photo, active);
  if (view.preview && !view.draft) drawPreview();
}

function drawObject(photo, object, active, quiet) {
  const mask = maskOf(photo, object);
  const image = mask && picture(`${photo.id}/${object.id}`, mask, object.colour, active);
  const draft = active && view.draft?.stroke ? view.draft : null;
  if (!image && !draft) return;
  const context = draft ? scratchLayer() : maskContext;
  context.save();
  toPhoto(context);
  context.globalAlpha = draft ? 1 : settings.opacity / 100 * quiet;
  if (image) drawPicture(context, image);
  if (draft) drawStroke(context, draft, object.colour);
  context.restore();
  if (draft) return stamp(settings.opacity / 100);
  drawOutline(image, object.colour, active ? 2 : 1.25, quiet);
}

function drawOutline(image, colour, width, quiet = 1) {
  // Long outlines wait until the view rests: they are what costs most in a frame.
  if (!image?.outline || (view.moving && image.corners > 2000)) return;
  maskContext.save();
  toPhoto(maskContext);
  maskContext.globalAlpha = quiet;
  maskContext.lineJoin = 'round';
  maskContext.strokeStyle = colour;
  maskContext.lineWidth = width * view.ratio / view.scale;
  maskContext.stroke(image.outline);
  maskContext.restore();
}

function scratchLayer() {
  const { canvas } = scratch;
  if (canvas.width !== view.width || canvas.height !== view.height) Object.assign(canvas, { width: view.width, height: view.height });
  clear(scratch);
  return scratch;
}

function stamp(alpha) {
  maskContext.setTransform(1, 0, 0, 1, 0, 0);
  maskContext.globalAlpha = alpha;
  maskContext.drawImage(scratch.canvas, 0, 0);
  maskContext.globalAlpha = 1;
}

function drawStroke(context, { path, radius, erase }, colour) {
  context.globalCompositeOperation = erase ? 'destination-out' : 'source-over';
  context.strokeStyle = colour;
  Object.assign(context, { lineWidth: radius * 2, lineCap: 'round', lineJoin: 'round' });
  context.beginPath();
  path.forEach(([x, y], i) => i ? context.lineTo(x, y) : context.moveTo(x, y));
  if (path.length === 1) context.lineTo(path[0][0] + 1e-3, path[0][1]);
  context.stroke();
  context.globalCompositeOperation = 'source-over';
}

/** A first stroke, where no object is active yet. */
function drawStrokeAlone(photo, active) {
  if (!view.draft?.stroke || active) return;
  const context = scratchLayer();
  context.save();
  toPhoto(context);
  drawStroke(context, view.draft, '#ffffff');
  context.restore();
  stamp(settings.opacity / 100);
}

function drawPreview() {
  const { mask, colour } = view.preview;
  const image = picture('preview', mask, colour, false);
  if (!image) return;
  maskContext.save();
  toPhoto(maskContext);
  maskContext.globalAlpha = 0.22;
  drawPicture(maskContext, image);
  maskContext.restore();
  const dash = 4 * view.ratio / view.scale;
  maskContext.setLineDash([dash, dash]);
  drawOutline(image, '#ffffff', 1.25);
  maskContext.setLineDash([]);
}

/** The whole photo in the middle. */
export function fit() {
  const photo = current();
  if (!photo?.width || !view.width) return;
  const margin = 16 * view.ratio;
  const room = [Math.max(1, view.width - 2 * margin), Math.max(1, view.height - 2 * margin)];
  view.scale = Math.min(room[0] / photo.width, room[1] / photo.height, 4 * view.ratio);
  view.left = Math.round((view.width - photo.width * view.scale) / 2);
  view.top = Math.round((view.height - photo.height * view.scale) / 2);
  view.fitted = true;
  moved();
}

/** Zooms by `factor` around a point of the stage (device pixels; the middle by default). */
export function zoom(factor, x = view.width / 2, y = view.height / 2) {
  const photo = current();
  if (!photo?.width) return;
  const smallest = Math.min(view.width / photo.width, view.height / photo.height, 1) / 4;
  const scale = Math.min(Math.max(view.scale * factor, smallest), 40 * view.ratio);
  const change = scale / view.scale;
  Object.assign(view, { scale, left: x - (x - view.left) * change, top: y - (y - view.top) * change, fitted: false });
  confine(photo);
  moved();
}

/** Moves the photo by device pixels. */
export function pan(dx, dy) {
  const photo = current();
  if (!photo) return;
  Object.assign(view, { left: view.left + dx, top: view.top + dy, fitted: false });
  confine(photo);
  moved();
}

/** Some of the photo stays in sight. */
function confine(photo) {
  const rest = 48 * view.ratio;
  view.left = Math.min(Math.max(view.left, rest - photo.width * view.scale), view.width - rest);
  view.top = Math.min(Math.max(view.top, rest - photo.height * view.scale), view.height - rest);
}

/** Keeps a photo pixel in sight (for the keyboard's cursor). */
export function reveal([x, y]) {
  const sx = x * view.scale + view.left, sy = y * view.scale + view.top, edge = 40 * view.ratio;
  const dx = sx < edge ? edge - sx : Math.min(0, view.width - edge - sx);
  const dy = sy < edge ? edge - sy : Math.min(0, view.height - edge - sy);
  if (!view.fitted && (dx || dy)) pan(dx, dy);
}

let rest = 0;

function moved() {
  view.moving = true;
  clearTimeout(rest);
  rest = setTimeout(() => { view.moving = false; redraw('masks'); }, 120);
  redraw();
  emit('view');
}

/** Device pixels of a pointer event on the stage. */
export function devicePoint(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) * view.ratio, (event.clientY - box.top) * view.ratio];
}

/** Photo pixels (with fractions) of a pointer event. */
export function photoPoint(event) {
  const [x, y] = devicePoint(event);
  return [(x - view.left) / view.scale, (y - view.top) / view.scale];
}

function resize(entries) {
  const entry = entries[entries.length - 1];
  const exact = entry.devicePixelContentBoxSize?.[0], { width, height } = entry.contentRect;
  view.width = exact ? exact.inlineSize : Math.round(width * devicePixelRatio);
  view.height = exact ? exact.blockSize : Math.round(height * devicePixelRatio);
  view.ratio = view.width / Math.max(width, 1) || 1;
  for (const canvas of canvases) Object.assign(canvas, { width: view.width, height: view.height });
  if (view.fitted) fit();
  Object.assign(dirty, { photo: true, masks: true, marks: true });
  draw();
}

export function start() {
  const observer = new ResizeObserver(resize);
  try {
    observer.observe(stage, { box: 'device-pixel-content-box' });
  } catch {
    observer.observe(stage);
  }
  on('redraw', () => redraw());
  on('photos', () => { view.preview = null; redraw(); });
  on('document', prepare);
  on('document settings mode', () => redraw('masks', 'marks'));
}
