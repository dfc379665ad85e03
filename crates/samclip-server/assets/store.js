// The work: photos, the objects on each, one undo history per photo, and the answers of the server.
//
// An object says what the user asked ({id, name, colour, prompt, rev, edits}) and is never changed in place: every
// step makes a new list, so undo is going back to an older list. A mask is the answer to a prompt, kept by the
// prompt's revision; an object whose revision has no answer yet is waiting. That one rule is why a lost server loses
// nothing: what waits is found again after a reload and asked again.

import * as db from './db.js';
import { emit } from './events.js';
import { subtract, union } from './rle.js';

export const state = { photos: [], current: null };

/** Colours of objects, chosen to differ on photos, from each other and for most colour-blind eyes. */
export const COLOURS = ['#ff5d5d', '#2fa8ff', '#ffc531', '#37d67a', '#c77dff', '#ff8f3f', '#22d3d3', '#ff7ac6', '#a3d838', '#8c9eff'];
const HISTORY = 200;

let serial = 0;
export const newId = () => `${Date.now().toString(36)}-${(serial++).toString(36)}-${Math.random().toString(36).slice(2, 7)}`;

export const current = () => state.photos.find((photo) => photo.id === state.current) || null;
export const objects = (photo) => photo.document.objects;
export const activeObject = (photo) => photo && objects(photo).find((object) => object.id === photo.document.active) || null;
export const isHidden = (photo, object) => photo.document.hidden.has(object.id);
export const answer = (photo, object) => photo.document.answers.get(object.rev);

function emptyDocument(id) {
  return { id, objects: [], active: null, hidden: new Set(), past: [], future: [], answers: new Map(), made: 0 };
}

let opened;
/** What is added before the stored work is there waits for it. */
const ready = new Promise((resolve) => { opened = resolve; });

/** Reads everything back. False when this tab cannot save. */
export async function restore() {
  try {
    return await readBack();
  } finally {
    opened();
  }
}

async function readBack() {
  const saving = await db.open();
  const stored = await db.load();
  state.photos = stored.photos.sort((a, b) => a.order - b.order).map((photo) => {
    return { ...photo, document: stored.documents.get(photo.id) || emptyDocument(photo.id) };
  });
  state.current = state.photos.some((photo) => photo.id === stored.current) ? stored.current : state.photos[0]?.id ?? null;
  return saving;
}

/** Adds image files; `path` keeps the folder. Returns the photos. */
export async function addPhotos(files) {
  await ready;
  let order = state.photos.reduce((top, photo) => Math.max(top, photo.order + 1), 0);
  const added = [];
  for (const file of files) {
    const id = newId();
    const path = file.webkitRelativePath || file.relativePath || file.name || 'pasted.png';
    const photo = { id, name: path.split('/').pop(), path, blob: file, key: null, order: order++, width: 0, height: 0 };
    added.push({ ...photo, document: emptyDocument(id) });
  }
  state.photos.push(...added);
  select(added[0].id);
  for (const photo of added) await savePhoto(photo);
  return added;
}

export function select(id) {
  state.current = id;
  db.putCurrent(id).catch(() => {});
  emit('photos');
}

export async function removePhotos(ids) {
  const gone = new Set(ids);
  const at = state.photos.findIndex((photo) => gone.has(photo.id));
  state.photos = state.photos.filter((photo) => !gone.has(photo.id));
  if (gone.has(state.current)) state.current = (state.photos[at] || state.photos[state.photos.length - 1])?.id ?? null;
  emit('photos');
  for (const id of ids) await db.removePhoto(id);
}

/** Stores what is known about a photo (its size, the server's key). */
export async function savePhoto(photo) {
  if (!state.photos.includes(photo)) return; // removed meanwhile
  const { document: _, thumbnail: __, ...plain } = photo;
  try {
    await db.putPhoto(plain);
  } catch (error) {
    const full = error?.name === 'QuotaExceededError';
    emit('trouble', full ? `the browser's storage is full: ${photo.name} will be gone after a reload` : `not saved: ${error?.message}`);
  }
}

const unsaved = new Set();
let timer = 0;

function changed(photo) {
  unsaved.add(photo);
  clearTimeout(timer);
  timer = setTimeout(flush, 60);
  emit('document', photo);
}

/** Writes what changed. Called soon after every change and when the page is hidden. */
export function flush() {
  for (const photo of unsaved) {
    if (!state.photos.includes(photo)) continue;
    prune(photo.document);
    db.putDocument(photo.document).catch((error) => emit('trouble', `not saved: ${error?.message}`));
  }
  unsaved.clear();
}

/** Forgets answers that neither the objects nor the history mention. */
function prune(document) {
  const used = new Set();
  for (const list of [document.objects, ...document.past.map((s) => s.objects), ...document.future.map((s) => s.objects)]) {
    for (const object of list) used.add(object.rev);
  }
  for (const rev of document.answers.keys()) if (!used.has(rev)) document.answers.delete(rev);
}

/** One step of the history: `list` becomes the photo's objects. */
export function commit(photo, label, list, active = photo.document.active) {
  const document = photo.document;
  document.past.push({ label, objects: document.objects, active: document.active });
  if (document.past.length > HISTORY) document.past.shift();
  document.future = [];
  Object.assign(document, { objects: list, active });
  changed(photo);
}

/** Goes one step back (-1) or forward (+1). Returns the step's label, or null. */
export function travel(photo, direction) {
  const document = photo?.document;
  const [from, to] = direction < 0 ? [document?.past, document?.future] : [document?.future, document?.past];
  const step = from?.pop();
  if (!step) return null;
  to.push({ label: step.label, objects: document.objects, active: document.active });
  const active = step.objects.some((object) => object.id === step.active) ? step.active : null;
  Object.assign(document, { objects: step.objects, active });
  changed(photo);
  return step.label;
}

/** Takes back a step whose prompt the server refused, if nothing was done since. */
export function retract(photo, rev) {
  const document = photo.document;
  const last = document.past[document.past.length - 1];
  const isLast = last && document.objects.some((o) => o.rev === rev) && !last.objects.some((o) => o.rev === rev);
  if (!isLast) return false;
  document.past.pop();
  Object.assign(document, { objects: last.objects, active: last.active });
  changed(photo);
  return true;
}

/** A new object, not yet in the list. */
export function makeObject(photo, fields) {
  const colour = COLOURS[photo.document.made++ % COLOURS.length];
  return { id: newId(), name: '', colour, prompt: null, rev: null, edits: null, ...fields };
}

export function replace(photo, object) {
  return objects(photo).map((other) => other.id === object.id ? object : other);
}

export function activate(photo, id) {
  if (photo.document.active === id) return;
  photo.document.active = id;
  changed(photo);
}

export function toggleHidden(photo, ids, hide) {
  for (const id of ids) {
    if (hide ?? !photo.document.hidden.has(id)) photo.document.hidden.add(id);
    else photo.document.hidden.delete(id);
  }
  changed(photo);
}

/** Stores the server's answer to a revision: {mask, ...} or {error, hint}. */
export function setAnswer(photo, rev, value) {
  photo.document.answers.set(rev, value);
  changed(photo);
}

/** Objects that wait for the server. */
export function waiting(photo) {
  return objects(photo).filter((object) => object.rev && !photo.document.answers.has(object.rev));
}

const composed = new WeakMap(); // object -> {base, mask}

/** The object's mask as it stands: the answer, with the brush's edits on top. Null while there is none. */
export function maskOf(photo, object) {
  const base = answer(photo, object)?.mask || null;
  if (!object.edits) return base;
  const known = composed.get(object);
  if (known && known.base === base) return known.mask;
  const { added, removed } = object.edits, size = [photo.height, photo.width];
  const mask = subtract(union(base, added, size), removed, size);
  composed.set(object, { base, mask });
  return mask;
}
