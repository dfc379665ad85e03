// The server, as the page sees it: requests that outlive a lost connection, and the state of that connection.
//
// A request that cannot reach the server waits and is sent again when the server is back; it fails only when the
// server refuses it. Shapes: `/openapi.json`.

import { settings } from './db.js';
import { emit } from './events.js';
import { savePhoto } from './store.js';

/** A refusal: {status, kind, message, hint}. */
export class Refusal extends Error {
  constructor(status, body, retryAfter) {
    super(body?.error || `the server answered ${status}`);
    Object.assign(this, { status, kind: body?.kind || 'http', hint: body?.hint || null, retryAfter });
  }
}

/** phase: 'connecting' | 'online' | 'offline' | 'starting' | 'locked' (needs a key). */
export const net = { phase: 'connecting', retryAt: 0, models: [], words: [], model: '' };

const BACKOFF = [500, 1000, 2000, 4000, 8000];
const HEARTBEAT = 5000;
let attempts = 0, timer = 0, wake = [];
let secret = readSecret();

function readSecret() {
  try {
    return sessionStorage.getItem('samclip-key') || '';
  } catch {
    return '';
  }
}

/** Takes the key that the server wants and tries again. */
export function unlock(key) {
  secret = key;
  try {
    sessionStorage.setItem('samclip-key', key);
  } catch { /* asked again after a reload */ }
  connect();
}

function setPhase(phase) {
  const before = net.phase;
  net.phase = phase;
  if (phase === 'online') {
    attempts = 0;
    net.retryAt = 0;
    const resume = wake;
    wake = [];
    for (const go of resume) go();
  }
  if (before !== phase || phase !== 'online') emit('net', before);
}

/** Resolves when the server is there. */
function whenOnline(signal) {
  if (net.phase === 'online') return Promise.resolve();
  return new Promise((resolve, reject) => {
    wake.push(resolve);
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const handle = setTimeout(resolve, ms);
  signal?.addEventListener('abort', () => (clearTimeout(handle), reject(signal.reason)), { once: true });
});

/** One exchange. Throws TypeError when the server cannot be reached, Refusal when it refuses. */
async function exchange(path, { body, form, signal } = {}) {
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  if (body) headers['Content-Type'] = 'application/json';
  const method = body || form ? 'POST' : 'GET';
  const response = await fetch(path, { method, headers, body: form || (body && JSON.stringify(body)), signal });
  const text = await response.text();
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) throw new TypeError('not the answer of a samclip server');
  }
  if (!response.ok) throw new Refusal(response.status, answer, Number(response.headers.get('Retry-After')) || 1);
  return answer;
}

/** Asks until the server answers or refuses. */
export async function request(path, options = {}) {
  for (let late = 0; ;) {
    await whenOnline(options.signal);
    try {
      return await exchange(path, options);
    } catch (error) {
      if (options.signal?.aborted) throw options.signal.reason;
      if (error instanceof TypeError) lost('offline');
      else if (error.kind === 'deadline' && ++late < 3) await sleep(error.retryAfter * 1000, options.signal);
      else if (error.kind === 'deadline') throw error;
      else if (error.status === 503) lost('starting');
      else if (error.status === 401) setPhase('locked');
      else if (error.status === 429) await sleep(error.retryAfter * 1000 * (0.75 + Math.random() / 2), options.signal);
      else throw error;
    }
  }
}

function lost(phase) {
  if (net.phase === 'locked') return;
  const first = net.phase === 'online' || net.phase === 'connecting';
  if (first) attempts = 0;
  else if (net.retryAt > Date.now()) return setPhase(phase); // another request already planned the next try
  const delay = BACKOFF[Math.min(attempts++, BACKOFF.length - 1)];
  net.retryAt = Date.now() + delay;
  clearTimeout(timer);
  timer = setTimeout(connect, delay);
  setPhase(phase);
}

/** Tries to reach the server now; reads its models and words when it is (back) there. */
export async function connect() {
  clearTimeout(timer);
  net.retryAt = 0;
  try {
    await exchange('/readyz');
    const [models, words] = await Promise.all([exchange('/v1/models'), exchange('/v1/vocabulary').catch(optional)]);
    net.models = models.models;
    net.words = words?.words || [];
    net.model = (net.models.find((model) => model.name === settings.model) || net.models.find((model) => model.default) || net.models[0])?.name || '';
    setPhase('online');
  } catch (error) {
    if (error.status === 401) setPhase('locked');
    else lost(error instanceof Refusal && error.status === 503 ? 'starting' : 'offline');
  }
}

/** A server without text has no vocabulary: not an error. */
function optional(error) {
  if (error instanceof Refusal && (error.status === 404 || error.status === 422)) return null;
  throw error;
}

async function heartbeat() {
  if (net.phase !== 'online' || document.hidden) return;
  try {
    await exchange('/healthz', { signal: AbortSignal.timeout(4000) });
  } catch (error) {
    // Slow is not gone: only a refused connection is.
    if (error instanceof TypeError) lost('offline');
  }
}

export function start() {
  setInterval(heartbeat, HEARTBEAT);
  window.addEventListener('online', connect);
  return connect();
}

/** What the user chose in the header, for the body of a request. */
function choice() {
  const model = net.models.find((entry) => entry.name === net.model);
  const adapter = model?.adapters?.includes(settings.adapter) ? settings.adapter : undefined;
  return { model: model && !model.default ? model.name : undefined, adapter };
}

export const usesAdapter = () => Boolean(choice().adapter);

const embedding = new Map(); // photo id -> promise of its key

/** The key of the photo's embedding; sends the photo when the server does not know it. */
export function keyOf(photo) {
  const { model, adapter } = choice();
  const tag = `${model || ''}/${adapter || ''}`;
  if (photo.key && photo.keyTag === tag) return Promise.resolve(photo.key);
  if (!embedding.has(photo.id)) {
    const job = embed(photo, { model, adapter }, tag).finally(() => embedding.delete(photo.id));
    embedding.set(photo.id, job);
    emit('net');
  }
  return embedding.get(photo.id);
}

export const isEmbedding = (photo) => embedding.has(photo.id);

async function embed(photo, choose, tag) {
  const form = new FormData();
  form.append('image', await readable(photo.blob), photo.name);
  form.append('request', JSON.stringify({ ...choose, image_name: photo.name }));
  const answer = await request('/v1/embed', { form });
  Object.assign(photo, { key: answer.key, keyTag: tag, width: answer.width, height: answer.height });
  savePhoto(photo);
  emit('net');
  return photo.key;
}

/** The file as it is; what only browsers read (GIF, AVIF) as PNG. */
async function readable(blob) {
  if (/^image\/(jpeg|png|webp|bmp)$/.test(blob.type) || !blob.type.startsWith('image/')) return blob;
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: 'image/png' });
}

/** A request about a photo. A server that forgot the photo gets it again. */
export async function ask(photo, verb, body, signal) {
  for (let attempt = 0; ; attempt++) {
    const key = await keyOf(photo);
    signal?.throwIfAborted();
    try {
      return await request(`/v1/${verb}`, { body: { key, ...choice(), ...body }, signal });
    } catch (error) {
      if (error.kind !== 'unknown_key' || attempt >= 4) throw error;
      if (photo.key === key) photo.key = null;
    }
  }
}
