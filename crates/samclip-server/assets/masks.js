// Pictures of masks for the screen: asks the worker, keeps what was drawn, forgets the least recently used.

import { emit } from './events.js';
import { crop, paint } from './raster.js';
import { bbox } from './rle.js';

const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
const waiting = new Map();
let nextId = 1;

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(result);
};

/** Runs an operation of worker.js. */
export function work(operation, args) {
  return new Promise((resolve, reject) => {
    const id = nextId++;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, operation, args });
  });
}

/** [r, g, b] of "#rrggbb". */
export function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, value >> 8 & 255, value & 255];
}

/** Bytes of bitmaps that are kept. */
const BUDGET = 192 * 1024 * 1024;
/** Pixels of one bitmap: the active object is shown pixel by pixel, the others may be coarser on huge photos. */
const ACTIVE_PIXELS = 16e6, OTHER_PIXELS = 1.5e6;
/** Up to this many pixels a bitmap takes a few milliseconds: less than the way to the worker and back. */
const DIRECT_PIXELS = 7e5;

const pictures = new Map(); // owner -> {mask, colour, fine, picture, busy}
let inUse = '';

/** Pictures whose owners start with `prefix` are never forgotten: they are on the screen. */
export function keep(prefix) {
  inUse = prefix;
}

/**
 * The picture of `mask` for `owner` (photo/object): {x, y, w, h, bitmap, outline}. While a new one is drawn the
 * owner's last one is returned, so nothing flickers; "redraw" is emitted when the new one is there.
 */
export function picture(owner, mask, colour, fine) {
  let entry = pictures.get(owner);
  if (!entry) pictures.set(owner, entry = {});
  else pictures.set(owner, (pictures.delete(owner), entry)); // most recently used last
  const current = entry.mask === mask && entry.colour === colour && (entry.fine || !fine);
  if (!current && !entry.busy) {
    const [x, y, w, h] = bbox(mask);
    if (w && w * h <= DIRECT_PIXELS) paintNow(entry, mask, colour, { x, y, w, h });
    else render(entry, mask, colour, fine);
  }
  return entry.picture && !entry.picture.empty ? entry.picture : null;
}

function paintNow(entry, mask, colour, { x, y, w, h }) {
  const canvas = new OffscreenCanvas(w, h);
  canvas.getContext('2d').putImageData(paint(crop(mask), rgb(colour), 1), 0, 0);
  take(entry, { x, y, w, h, step: 1, bitmap: canvas.transferToImageBitmap() }, { mask, colour, fine: true });
}

/** The entry shows a new picture; its outline comes a moment later, so that the colour does not wait for it. */
function take(entry, result, drawn) {
  entry.picture?.bitmap?.close();
  entry.picture = { ...result, outline: null, corners: 0 };
  Object.assign(entry, drawn);
  if (!result.empty) trace(entry.picture, drawn.mask);
  evict(entry);
}

async function render(entry, mask, colour, fine) {
  entry.busy = true;
  try {
    const budget = fine ? ACTIVE_PIXELS : OTHER_PIXELS;
    take(entry, await work('bitmap', { mask, rgb: rgb(colour), budget }), { mask, colour, fine });
  } catch (error) {
    Object.assign(entry, { mask, colour, fine, picture: null });
    emit('trouble', error.message);
  }
  entry.busy = false;
  emit('redraw');
}

async function trace(shown, mask) {
  const rings = await work('outline', { mask }).catch(() => null);
  if (!rings) return;
  shown.corners = rings.reduce((sum, ring) => sum + ring.length / 2, 0);
  shown.outline = outline(rings);
  emit('redraw');
}

function outline(rings) {
  const path = new Path2D();
  for (const ring of rings) {
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
  }
  return path;
}

function evict(fresh) {
  const bytes = (entry) => entry.picture?.bitmap ? entry.picture.bitmap.width * entry.picture.bitmap.height * 4 : 0;
  let sum = 0;
  for (const entry of pictures.values()) sum += bytes(entry);
  for (const [owner, entry] of pictures) {
    if (sum <= BUDGET) return;
    if (entry === fresh || entry.busy || owner.startsWith(inUse)) continue;
    sum -= bytes(entry);
    entry.picture?.bitmap?.close();
    pictures.delete(owner);
  }
}
