// The worker: everything that touches every pixel of a mask, so that the page never waits for it.

import { borders, crop, paint, paintAll, png, polygons } from './raster.js';

/** Corners beyond which an outline is not drawn on the screen (it would cost more than it shows). */
const OUTLINE_LIMIT = 60000;

const OPERATIONS = {
  async bitmap({ mask, rgb, budget }) {
    const piece = crop(mask);
    if (piece.w === 0) return { empty: true };
    const step = Math.max(1, Math.ceil(Math.sqrt(piece.w * piece.h / budget)));
    const bitmap = await createImageBitmap(paint(piece, rgb, step));
    const { x, y, w, h } = piece;
    return { x, y, w, h, step, bitmap };
  },
  outline: ({ mask }) => borders(crop(mask), OUTLINE_LIMIT),
  async candidates({ masks, colours, size, budget }) {
    const step = Math.max(1, Math.ceil(Math.sqrt(size[0] * size[1] / budget)));
    return { step, bitmap: await createImageBitmap(paintAll(masks, colours, size, step)) };
  },
  polygons: ({ mask }) => polygons(mask),
  png: ({ mask }) => png(mask),
};

self.onmessage = async ({ data: { id, operation, args } }) => {
  try {
    const result = await OPERATIONS[operation](args);
    self.postMessage({ id, result }, result?.bitmap ? [result.bitmap] : []);
  } catch (error) {
    self.postMessage({ id, error: String(error && error.message || error) });
  }
};
