// The two modes that lay something over the photo: "everything" (masks to pick from) and the heat map of a name.

import * as actions from './actions.js';
import { ask } from './api.js';
import { element } from './dom.js';
import { emit, on } from './events.js';
import { picture, rgb, work } from './masks.js';
import { area, contains } from './rle.js';
import { COLOURS, current } from './store.js';
import { drawPicture, redraw, toPhoto, view } from './view.js';

/** name: null | 'everything' | 'heat'; busy while the server works. */
export const mode = { name: null, photo: null, busy: false, masks: [], shown: [], keep: 0.3, text: '', heat: null, hover: null };

let abort = null;
let wanted = null, painting = null;

/** Back to clicks. True when there was a mode. */
export function leave() {
  if (!mode.name) return false;
  abort?.abort(new DOMException('superseded', 'AbortError'));
  Object.assign(mode, { name: null, photo: null, busy: false, masks: [], shown: [], heat: null, hover: null });
  Object.assign(view, { mode: null, overlay: null });
  emit('mode');
  return true;
}

async function enter(name, photo, load) {
  leave();
  abort = new AbortController();
  const { signal } = abort;
  Object.assign(mode, { name, photo, busy: true });
  view.mode = name;
  emit('mode');
  try {
    await load(signal);
  } catch (error) {
    if (signal.aborted) return;
    leave();
    emit('trouble', error.hint ? `${error.message} (${error.hint})` : error.message);
  }
  if (signal.aborted) return;
  mode.busy = false;
  emit('mode');
}

/**
 * All masks of the photo. The server is asked for nearly all of them; how many are shown is decided here, by their
 * predicted IoU, so that the slider answers at once and a small model's lower estimates lose nothing.
 */
export function everything(photo) {
  return enter('everything', photo, async (signal) => {
    const options = { points_per_side: 16, pred_iou_thresh: 0.1, stability_score_thresh: 0, box_nms_thresh: 0.7 };
    const document = await ask(photo, 'everything', { ...options, image_name: photo.name }, signal);
    signal.throwIfAborted();
    mode.masks = document.images[0].masks.filter((record) => record.prompt.points.length);
    mode.masks.sort((a, b) => b.predicted_iou - a.predicted_iou);
    await show(mode.keep);
    emit('status', mode.masks.length ? `${mode.masks.length} masks. Click the ones to keep` : 'No masks found in this photo');
  });
}

/** Shows the best share (0..1) of the masks. While one picture is painted, only the newest wish waits. */
export async function show(share) {
  mode.keep = share;
  const best = mode.masks.slice(0, Math.max(Math.min(mode.masks.length, 1), Math.round(mode.masks.length * share)));
  mode.shown = best.sort((a, b) => b.area - a.area);
  const { photo } = mode;
  const args = {
    masks: mode.shown.map((record) => record.segmentation), size: [photo.height, photo.width], budget: 4e6,
    colours: mode.shown.map((record) => rgb(COLOURS[mode.masks.indexOf(record) % COLOURS.length])),
  };
  emit('mode');
  wanted = { photo, args };
  painting ||= paintWanted().finally(() => { painting = null; });
  await painting;
}

async function paintWanted() {
  while (wanted) {
    const { photo, args } = wanted;
    wanted = null;
    const { bitmap, step } = await work('candidates', args);
    if (mode.photo !== photo) {
      bitmap.close();
      continue;
    }
    view.overlay = (context) => drawEverything(context, bitmap, step);
    redraw('masks');
  }
}

function drawEverything(context, bitmap, step) {
  context.save();
  toPhoto(context);
  context.globalAlpha = mode.hover ? 0.28 : 0.5;
  drawPicture(context, { bitmap, x: 0, y: 0, step });
  const colour = mode.hover && COLOURS[mode.masks.indexOf(mode.hover) % COLOURS.length];
  const image = mode.hover && picture('candidate', mode.hover.segmentation, colour, false);
  if (image) {
    context.globalAlpha = 0.75;
    drawPicture(context, image);
    context.globalAlpha = 1;
    context.lineWidth = 2 * view.ratio / view.scale;
    context.strokeStyle = '#ffffff';
    if (image.outline) context.stroke(image.outline);
  }
  context.restore();
}

/** The smallest shown mask at a pixel. */
function maskAt(pixel) {
  const hit = mode.shown.filter((record) => contains(record.segmentation, pixel[0], pixel[1]));
  return hit.length ? hit[hit.length - 1] : null;
}

export function hoverAt(pixel) {
  const hit = pixel ? maskAt(pixel) : null;
  if (hit === mode.hover) return;
  mode.hover = hit;
  redraw('masks');
}

/** The mask under a pixel becomes an object. */
export function pickAt(pixel) {
  const hit = maskAt(pixel);
  if (hit) take([hit]);
}

/** Every mask that is shown becomes an object. */
export function pickAll() {
  take([...mode.shown]);
  leave();
}

function take(records) {
  if (!records.length) return;
  actions.pick(mode.photo, records);
  mode.masks = mode.masks.filter((record) => !records.includes(record));
  mode.shown = mode.shown.filter((record) => !records.includes(record));
  mode.hover = null;
  emit('status', `Picked ${area(records[0].segmentation).toLocaleString('en')} pixels`);
  const share = mode.keep, keepCount = mode.shown.length;
  if (keepCount && mode.masks.length) show(keepCount / mode.masks.length).then(() => { mode.keep = share; });
  else Object.assign(view, { overlay: null });
  emit('mode');
}

/** Where a name is, as a heat map. */
export function heat(photo, text) {
  return enter('heat', photo, async (signal) => {
    mode.text = text;
    const document = await ask(photo, 'locate', { text, image_name: photo.name }, signal);
    signal.throwIfAborted();
    const { grid, similarity } = document.images[0].locations[0];
    mode.heat = { low: Math.min(...similarity), high: Math.max(...similarity) };
    const map = colourMap(grid, similarity, mode.heat);
    view.overlay = (context) => drawHeat(context, map, photo, grid);
    emit('status', `Where “${text}” is: yellow is likely, blue is not`);
  });
}

// Anchors of a perceptually even blue-to-yellow scale.
const SCALE = [[13, 8, 135], [84, 2, 163], [139, 10, 165], [185, 50, 137], [219, 92, 104], [244, 136, 73], [254, 188, 43], [240, 249, 33]];

function colourMap([rows, columns], similarity, { low, high }) {
  const map = element('canvas', { width: columns, height: rows });
  const context = map.getContext('2d');
  const image = context.createImageData(columns, rows);
  similarity.forEach((value, i) => {
    const at = (value - low) / Math.max(high - low, 1e-6) * (SCALE.length - 1);
    const step = Math.min(Math.floor(at), SCALE.length - 2), rest = at - step;
    for (let c = 0; c < 3; c++) image.data[i * 4 + c] = SCALE[step][c] * (1 - rest) + SCALE[step + 1][c] * rest;
    image.data[i * 4 + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return map;
}

/** The grid may reach beyond the photo: its cells are square, the last row or column is cut. */
function drawHeat(context, map, photo, [rows, columns]) {
  const cell = Math.max(photo.width, photo.height) / Math.max(rows, columns);
  const covers = cell * columns >= photo.width - 1 && cell * rows >= photo.height - 1;
  const [w, h] = covers ? [cell * columns, cell * rows] : [photo.width, photo.height];
  context.save();
  toPhoto(context);
  context.beginPath();
  context.rect(0, 0, photo.width, photo.height);
  context.clip();
  context.globalAlpha = 0.62;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = 'high';
  context.drawImage(map, 0, 0, w, h);
  context.restore();
}

on('photos', () => mode.name && mode.photo !== current() && leave());
