// Pixels of masks, inside the worker: row-major crops, coloured bitmaps, outlines as polygons, grey PNG files.
//
// Outlines run along the borders between pixels with the mask to their right, the same corners in the same order as
// crates/samclip-image/src/contour.rs. Parity: tests/page.rs holds LabelMe and YOLO files against the command line's.

import { bbox, edges } from './rle.js';
import { crc32 } from './zip.js';

/** The mask's pixels inside its box: {x, y, w, h, data}, row-major, 0 or 1. */
export function crop(mask) {
  const [x, y, w, h] = bbox(mask);
  const data = new Uint8Array(w * h);
  const list = edges(mask), height = mask.size[0];
  for (let i = 0; i + 1 < list.length; i += 2) {
    let column = Math.floor(list[i] / height), row = list[i] - column * height;
    for (let left = list[i + 1] - list[i]; left > 0;) {
      const run = Math.min(left, height - row);
      for (let at = (row - y) * w + column - x, k = 0; k < run; k++, at += w) data[at] = 1;
      left -= run;
      row = 0;
      column++;
    }
  }
  return { x, y, w, h, data };
}

/** A crop as image data in one colour, every `step`-th pixel. */
export function paint({ w, h, data }, rgb, step) {
  const width = Math.ceil(w / step), height = Math.ceil(h / step);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const value = packed(rgb);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0, from = y * step * w; x < width; x++, from += step, at++) if (data[from]) pixels[at] = value;
  }
  return image;
}

/** Several masks over each other, largest first, as image data of the photo's size divided by `step`. */
export function paintAll(masks, colours, size, step) {
  const width = Math.ceil(size[1] / step), height = Math.ceil(size[0] / step);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  masks.forEach((mask, i) => {
    const value = packed(colours[i]);
    const { x, y, w, h, data } = crop(mask);
    for (let row = Math.ceil(y / step); row * step < y + h; row++) {
      for (let column = Math.ceil(x / step); column * step < x + w; column++) {
        if (data[(row * step - y) * w + column * step - x]) pixels[row * width + column] = value;
      }
    }
  });
  return image;
}

function packed([r, g, b]) {
  return (255 << 24 | b << 16 | g << 8 | r) >>> 0;
}

// Right, down, left, up.
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/** All borders of the mask, holes too: lists x, y, x, y, ... in photo pixels. Null beyond `limit` corners. */
export function borders(piece, limit = Infinity) {
  const { w, h, data } = piece;
  const seen = new Uint8Array(w * h);
  const rings = [];
  let corners = 0;
  for (let y = 0, at = 0; y < h; y++) {
    for (let x = 0; x < w; x++, at++) {
      if (!data[at] || seen[at] || (y > 0 && data[at - w])) continue;
      const ring = trace(piece, seen, x, y);
      corners += ring.length / 2;
      if (corners > limit) return null;
      rings.push(ring);
    }
  }
  return rings;
}

function trace({ x: left, y: top, w, h, data }, seen, x0, y0) {
  const set = (x, y) => x >= 0 && y >= 0 && x < w && y < h && data[y * w + x] === 1;
  const ring = [x0 + left, y0 + top];
  let x = x0, y = y0, heading = 0;
  for (;;) {
    if (heading === 0) seen[y * w + x] = 1;
    x += STEPS[heading][0];
    y += STEPS[heading][1];
    const turned = turn(set, x, y, heading);
    if (x === x0 && y === y0 && turned === 0) return ring;
    if (turned !== heading) ring.push(x + left, y + top);
    heading = turned;
  }
}

/** The way on from a corner. A filled pixel ahead on the left is followed first: regions that touch stay together. */
function turn(set, x, y, heading) {
  const left = [[x, y - 1], [x, y], [x - 1, y], [x - 1, y - 1]][heading];
  const right = [[x, y], [x - 1, y], [x - 1, y - 1], [x, y - 1]][heading];
  if (set(left[0], left[1])) return (heading + 3) % 4;
  return set(right[0], right[1]) ? heading : (heading + 1) % 4;
}

/** The outer borders alone (clockwise on the screen), as lists of [x, y]. */
export function polygons(mask) {
  return borders(crop(mask)).filter((ring) => signedArea(ring) > 0).map((ring) => {
    const points = [];
    for (let i = 0; i < ring.length; i += 2) points.push([ring[i], ring[i + 1]]);
    return points;
  });
}

function signedArea(ring) {
  let sum = 0;
  for (let i = 0; i < ring.length; i += 2) {
    const j = (i + 2) % ring.length;
    sum += ring[i] * ring[j + 1] - ring[j] * ring[i + 1];
  }
  return sum;
}

/** The mask as an 8-bit grey PNG of the photo's size: 0 and 255. */
export async function png(mask) {
  const [height, width] = mask.size;
  const { x, y, w, h, data } = crop(mask);
  const rows = new Uint8Array((width + 1) * height); // each row starts with its filter, 0
  for (let row = 0; row < h; row++) {
    const to = (y + row) * (width + 1) + 1 + x;
    for (let column = 0; column < w; column++) if (data[row * w + column]) rows[to + column] = 255;
  }
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 0, 0, 0, 0], 8);
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  const packedRows = await deflate(rows);
  return new Blob([signature, chunk('IHDR', header), chunk('IDAT', packedRows), chunk('IEND', new Uint8Array())]);
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(name, body) {
  const out = new Uint8Array(12 + body.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) out[4 + i] = name.charCodeAt(i);
  out.set(body, 8);
  view.setUint32(8 + body.length, crc32(out.subarray(4, 8 + body.length)));
  return out;
}
