// Decoded photos for the screen: full size and halves of it, for the photo that is shown and the one before.

import { emit } from './events.js';
import { savePhoto } from './store.js';

const KEPT = 2;
const loaded = new Map(); // photo id -> {levels: [ImageBitmap], error, promise}

/** The photo's bitmaps [full, half, quarter, ...], or null while they are decoded. */
export function levels(photo) {
  let entry = loaded.get(photo.id);
  if (!entry) {
    loaded.set(photo.id, entry = { levels: null, error: null });
    decode(photo, entry);
  }
  return entry.levels;
}

export const decodeError = (photo) => loaded.get(photo.id)?.error || null;

async function decode(photo, entry) {
  try {
    const full = await createImageBitmap(photo.blob);
    entry.levels = [full];
    if (!photo.width || !photo.height) {
      Object.assign(photo, { width: full.width, height: full.height });
      savePhoto(photo);
    }
    forget(photo.id);
    emit('redraw');
    for (let side = 2; Math.max(full.width, full.height) / side >= 700; side *= 2) {
      const resizeWidth = Math.max(1, Math.round(full.width / side));
      const resizeHeight = Math.max(1, Math.round(full.height / side));
      const previous = entry.levels[entry.levels.length - 1];
      const half = await createImageBitmap(previous, { resizeWidth, resizeHeight, resizeQuality: 'medium' });
      if (loaded.get(photo.id) !== entry) return half.close(); // forgotten meanwhile
      entry.levels.push(half);
    }
    emit('redraw');
  } catch {
    if (loaded.get(photo.id) !== entry) return;
    entry.error = 'this browser cannot show the file as a photo';
    emit('trouble', `${photo.name}: ${entry.error}`);
    emit('redraw');
  }
}

function forget(keep) {
  for (const [id, entry] of loaded) {
    if (loaded.size <= KEPT) return;
    if (id === keep || !entry.levels) continue;
    for (const bitmap of entry.levels) bitmap.close();
    entry.levels = [];
    loaded.delete(id);
  }
}

const queue = [];
let busy = false;

/** Draws the photo's thumbnail on a canvas, one at a time. */
export function thumbnail(photo, canvas) {
  queue.push({ photo, canvas });
  if (!busy) drain();
}

async function drain() {
  busy = true;
  while (queue.length) {
    const { photo, canvas } = queue.shift();
    if (!canvas.isConnected) continue;
    try {
      if (!photo.thumbnail) photo.thumbnail = await shrink(photo.blob, canvas.width, canvas.height);
      canvas.getContext('2d').drawImage(photo.thumbnail, 0, 0);
    } catch {
      canvas.classList.add('broken');
    }
  }
  busy = false;
}

async function shrink(blob, width, height) {
  const full = await createImageBitmap(blob);
  const scale = Math.max(width / full.width, height / full.height);
  const w = width / scale, h = height / scale;
  const options = { resizeWidth: width, resizeHeight: height, resizeQuality: 'medium' };
  const small = await createImageBitmap(full, (full.width - w) / 2, (full.height - h) / 2, w, h, options);
  full.close();
  return small;
}
