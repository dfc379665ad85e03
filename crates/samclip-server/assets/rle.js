// Masks as COCO's run-length encoding: parsing, writing, set operations, strokes, hit tests.
//
// A mask is {size: [height, width], counts: "..."}, as in every answer of the server. Runs go down the
// columns and start with background. A mask that nobody edited is passed on as the string that came, so what is
// exported is what the model said. Reference: cocoapi `common/maskApi.c` (rleToString, rleFrString).
// Parity: tests/page.rs holds exported strings against the command line's.

/** Run lengths of a counts string. */
export function parseCounts(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const byte = text.charCodeAt(at++) - 48;
      if (!(byte >= 0 && byte < 64)) throw new Error('damaged mask: bad run-length text');
      value |= (byte & 31) << shift;
      shift += 5;
      more = (byte & 32) !== 0;
      if (!more && (byte & 16) && shift < 32) value |= -1 << shift;
    }
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return Uint32Array.from(runs);
}

/** The counts string of run lengths. */
export function formatCounts(runs) {
  const bytes = [];
  for (let i = 0; i < runs.length; i++) {
    let value = i > 2 ? runs[i] - runs[i - 2] : runs[i];
    for (let more = true; more;) {
      let byte = value & 31;
      value >>= 5;
      more = byte & 16 ? value !== -1 : value !== 0;
      if (more) byte |= 32;
      bytes.push(String.fromCharCode(byte + 48));
    }
  }
  return bytes.join('');
}

const edgesOf = new WeakMap();

/** Positions (column-major) where the mask changes: on, off, on, off, ... Kept for as long as the mask lives. */
export function edges(mask) {
  let known = edgesOf.get(mask);
  if (!known) {
    const runs = parseCounts(mask.counts);
    known = new Uint32Array(runs.length % 2 ? runs.length - 1 : runs.length);
    for (let i = 0, at = 0; i < runs.length; i++) {
      at += runs[i];
      if (i < known.length) known[i] = at;
    }
    edgesOf.set(mask, known);
  }
  return known;
}

/** The mask of edges. */
export function fromEdges(list, size) {
  const total = size[0] * size[1];
  const runs = [];
  let last = 0;
  for (const edge of list) {
    runs.push(edge - last);
    last = edge;
  }
  if (last < total || runs.length === 0) runs.push(total - last);
  return { size, counts: formatCounts(runs) };
}

/** Combines two masks (null is empty) by `keep(inA, inB)`. */
function combine(a, b, keep, size) {
  const ea = a ? edges(a) : [], eb = b ? edges(b) : [];
  const out = [];
  let i = 0, j = 0, on = false;
  while (i < ea.length || j < eb.length) {
    const at = Math.min(i < ea.length ? ea[i] : Infinity, j < eb.length ? eb[j] : Infinity);
    while (i < ea.length && ea[i] === at) i++;
    while (j < eb.length && eb[j] === at) j++;
    const now = keep(i % 2 === 1, j % 2 === 1);
    if (now !== on) out.push(at);
    on = now;
  }
  return fromEdges(out, size);
}

export const union = (a, b, size) => combine(a, b, (x, y) => x || y, size);
export const subtract = (a, b, size) => combine(a, b, (x, y) => x && !y, size);

/** Number of pixels. */
export function area(mask) {
  const list = edges(mask);
  let sum = 0;
  for (let i = 0; i + 1 < list.length; i += 2) sum += list[i + 1] - list[i];
  return sum;
}

/** [x, y, width, height], zeros when empty. */
export function bbox(mask) {
  const list = edges(mask), h = mask.size[0];
  let x0 = Infinity, y0 = Infinity, x1 = -1, y1 = -1;
  for (let i = 0; i + 1 < list.length; i += 2) {
    if (list[i] === list[i + 1]) continue;
    const first = list[i], last = list[i + 1] - 1;
    const left = Math.floor(first / h), right = Math.floor(last / h);
    x0 = Math.min(x0, left);
    x1 = Math.max(x1, right);
    y0 = Math.min(y0, left === right ? first % h : 0);
    y1 = Math.max(y1, left === right ? last % h : h - 1);
  }
  return x1 < 0 ? [0, 0, 0, 0] : [x0, y0, x1 - x0 + 1, y1 - y0 + 1];
}

/** Whether pixel (x, y) is in the mask. */
export function contains(mask, x, y) {
  const [h, w] = mask.size;
  if (x < 0 || y < 0 || x >= w || y >= h) return false;
  const list = edges(mask), at = x * h + y;
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] <= at) low = middle + 1;
    else high = middle;
  }
  return low % 2 === 1;
}

/** What a round brush of `radius` pixels covers along `path` ([x, y] in pixels; pixel centres are at +0.5). */
export function stroke(path, radius, size) {
  const [h, w] = size;
  const columns = new Map();
  path.forEach((point, i) => addCapsule(columns, path[Math.max(0, i - 1)], point, radius, h, w));
  const out = [];
  for (const x of [...columns.keys()].sort((a, b) => a - b)) {
    const spans = columns.get(x).sort((a, b) => a[0] - b[0]);
    for (const [from, to] of spans) {
      const start = x * h + from, end = x * h + to + 1;
      if (out.length && start <= out[out.length - 1]) out[out.length - 1] = Math.max(out[out.length - 1], end);
      else out.push(start, end);
    }
  }
  return fromEdges(out, size);
}

function addCapsule(columns, a, b, radius, h, w) {
  const from = Math.max(0, Math.floor(Math.min(a[0], b[0]) - radius));
  const to = Math.min(w - 1, Math.ceil(Math.max(a[0], b[0]) + radius));
  for (let x = from; x <= to; x++) {
    const span = capsuleSpan(a, b, radius, x + 0.5);
    const low = Math.max(0, Math.ceil(span[0] - 0.5)), high = Math.min(h - 1, Math.floor(span[1] - 0.5));
    if (low > high) continue;
    if (!columns.has(x)) columns.set(x, []);
    columns.get(x).push([low, high]);
  }
}

/** The lowest and highest y of the points at most `radius` from the segment a-b on the vertical line at x. */
function capsuleSpan(a, b, radius, x) {
  let low = Infinity, high = -Infinity;
  const reach = (from, to) => { low = Math.min(low, from); high = Math.max(high, to); };
  for (const [cx, cy] of [a, b]) {
    const rest = radius * radius - (x - cx) ** 2;
    if (rest >= 0) reach(cy - Math.sqrt(rest), cy + Math.sqrt(rest));
  }
  const dx = b[0] - a[0], dy = b[1] - a[1], length = Math.hypot(dx, dy);
  if (length > 0) {
    const nx = -dy / length * radius, ny = dx / length * radius;
    const corners = [[a[0] + nx, a[1] + ny], [b[0] + nx, b[1] + ny], [b[0] - nx, b[1] - ny], [a[0] - nx, a[1] - ny]];
    corners.forEach(([px, py], i) => {
      const [qx, qy] = corners[(i + 1) % 4];
      if (px !== qx && (x - px) * (x - qx) <= 0) {
        const y = py + (x - px) / (qx - px) * (qy - py);
        reach(y, y);
      }
    });
  }
  return [low, high];
}
