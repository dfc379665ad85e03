// The list of photos, adding them (drop, paste, files, folder), and the progress of work on many.

import { byId, element } from './dom.js';
import { addPhotos, current, objects, removePhotos, select, state, waiting } from './store.js';
import { emit, on } from './events.js';
import { exported } from './export.js';
import { waitingCount, warmUp } from './jobs.js';
import { thumbnail } from './photo.js';

const list = byId('photo-list');
const rows = new Map(); // photo id -> {row, state}
const progress = { total: 0, started: 0 };

const IMAGE = /\.(jpe?g|png|webp|bmp|gif|avif)$/i;
const isImage = (file) => file.type.startsWith('image/') || IMAGE.test(file.name);

/** Adds the photos among `files`. */
export async function add(files) {
  const images = [...files].filter(isImage).filter((file) => file.size > 0);
  const refused = files.length - images.length;
  if (!images.length) {
    if (files.length) emit('trouble', 'no photos among these files (JPEG, PNG, WebP, BMP)');
    return;
  }
  images.sort((a, b) => pathOf(a).localeCompare(pathOf(b), 'en', { numeric: true }));
  const rest = refused ? `, ${refused} other files left out` : '';
  emit('status', `${images.length === 1 ? '1 photo' : `${images.length} photos`} added${rest}`);
  await addPhotos(images);
}

const pathOf = (file) => file.webkitRelativePath || file.relativePath || file.name;

/** Files of a drop, folders included. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...transfer.files];
  if (!entries.some((entry) => entry.isDirectory)) return plain;
  const files = [];
  for (const entry of entries) await walk(entry, '', files);
  return files;
}

async function walk(entry, folder, files) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    file.relativePath = folder + file.name;
    return void files.push(file);
  }
  const reader = entry.createReader();
  for (;;) {
    const children = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!children.length) return;
    for (const child of children) await walk(child, `${folder}${entry.name}/`, files);
  }
}

function makeRow(photo) {
  const canvas = element('canvas', { width: 96, height: 72, ariaHidden: 'true' });
  const name = element('span', { className: 'name', title: photo.path }, photo.name);
  const note = element('span', { className: 'state' });
  const button = element('button', { type: 'button', className: 'photo' }, canvas, name, note);
  button.addEventListener('click', () => select(photo.id));
  const row = element('li', {}, button);
  return { row, button, note, canvas, drawn: false };
}

const sight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const parts = rows.get(target.dataset.id);
    if (!isIntersecting || !parts || parts.drawn) continue;
    const photo = state.photos.find((photo) => photo.id === target.dataset.id);
    parts.drawn = true;
    if (photo) thumbnail(photo, parts.canvas);
  }
}, { root: list, rootMargin: '200px' });

function updateRow(photo) {
  const parts = rows.get(photo.id);
  if (!parts) return;
  const waits = waiting(photo).length, count = exported(photo).length;
  parts.count = count;
  parts.note.textContent = waits ? 'waiting …' : objects(photo).length ? String(count || 'none') : '';
  parts.note.title = count ? `${count} ${count === 1 ? 'object' : 'objects'}` : '';
  parts.note.classList.toggle('waiting', waits > 0);
}

function renderList() {
  const alive = new Set(state.photos.map((photo) => photo.id));
  for (const [id, parts] of rows) if (!alive.has(id)) rows.delete(id), parts.row.remove();
  state.photos.forEach((photo, i) => {
    if (!rows.has(photo.id)) {
      rows.set(photo.id, makeRow(photo));
      const { row } = rows.get(photo.id);
      row.dataset.id = photo.id;
      sight.observe(row);
      updateRow(photo);
    }
    const { row, button } = rows.get(photo.id);
    if (list.children[i] !== row) list.insertBefore(row, list.children[i] || null);
    button.setAttribute('aria-current', String(photo.id === state.current));
    if (photo.id === state.current && lastShown !== photo.id) row.scrollIntoView({ block: 'nearest' });
  });
  byId('photo-count').textContent = state.photos.length ? `${state.photos.findIndex((p) => p.id === state.current) + 1} of ${state.photos.length}` : '';
  byId('clear').disabled = !state.photos.length;
  document.body.classList.toggle('empty', !state.photos.length);
  const photo = current();
  document.title = photo ? `${photo.name} – samclip` : 'samclip';
  byId('stage').setAttribute('aria-label', photo ? `Photo ${photo.name}` : 'Photo');
  if (photo && lastShown !== photo.id) warmUp(photo);
  lastShown = photo?.id;
}

let lastShown = null;

/** Progress over many photos, from what still waits. */
function showProgress() {
  const left = waitingCount();
  const box = byId('progress');
  if (left > 2 && !progress.total) Object.assign(progress, { total: left, started: Date.now() });
  if (progress.total) progress.total = Math.max(progress.total, left);
  box.classList.toggle('idle', !progress.total || left === 0);
  if (progress.total && left === 0) {
    const failed = failures();
    emit('status', `All ${progress.total} prompts answered${failed ? `, ${failed} failed` : ''}`);
    progress.total = 0;
  }
  if (box.classList.contains('idle')) return showSummary();
  const done = progress.total - left;
  byId('progress-bar').value = done / progress.total;
  const seconds = done > 2 ? Math.ceil((Date.now() - progress.started) / 1000 / done * left) : 0;
  const rest = seconds ? `, ${seconds > 90 ? `${Math.ceil(seconds / 60)} min` : `${seconds} s`} left` : '';
  byId('progress-text').textContent = `${done} of ${progress.total}${rest}`;
}

function showSummary() {
  const done = state.photos.filter((photo) => rows.get(photo.id)?.count).length;
  byId('progress-text').textContent = `${done} of ${state.photos.length} with objects`;
}

const failures = () => state.photos.reduce((sum, photo) => {
  return sum + objects(photo).filter((object) => photo.document.answers.get(object.rev)?.error).length;
}, 0);

function clearDialog() {
  const dialog = byId('clear-dialog');
  byId('clear-one').disabled = !current();
  dialog.returnValue = '';
  dialog.onclose = () => {
    if (dialog.returnValue === 'one' && current()) removePhotos([current().id]);
    if (dialog.returnValue === 'all') removePhotos(state.photos.map((photo) => photo.id));
  };
  dialog.showModal();
}

/** The next or the previous photo. */
export function step(by) {
  const at = state.photos.indexOf(current()), to = state.photos[at + by];
  if (to) select(to.id);
  else emit('status', by > 0 ? 'This is the last photo' : 'This is the first photo');
}

function listenForDrops() {
  let depth = 0;
  const files = (event) => event.dataTransfer?.types.includes('Files');
  const over = (on) => document.body.classList.toggle('dropping', on);
  addEventListener('dragenter', (event) => files(event) && (depth++, over(true)));
  addEventListener('dragleave', (event) => files(event) && (depth = Math.max(0, depth - 1)) === 0 && over(false));
  addEventListener('dragover', (event) => files(event) && event.preventDefault());
  addEventListener('drop', async (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    try {
      await add(await dropped(event.dataTransfer));
    } catch (error) {
      emit('trouble', `cannot read what was dropped: ${error.message}`);
    }
  });
}

export function start(stopBatch) {
  const pickers = [['choose', 'files'], ['choose-first', 'files'], ['choose-folder', 'folder'], ['choose-folder-first', 'folder']];
  for (const [button, input] of pickers) {
    byId(button).addEventListener('click', () => byId(input).click());
  }
  for (const id of ['files', 'folder']) {
    const input = byId(id);
    input.addEventListener('change', async () => {
      const files = [...input.files];
      input.value = '';
      await add(files);
    });
  }
  listenForDrops();
  addEventListener('paste', (event) => {
    if (event.clipboardData?.files.length) add([...event.clipboardData.files]);
  });
  byId('clear').addEventListener('click', clearDialog);
  byId('progress-stop').addEventListener('click', stopBatch);
  on('photos', () => { renderList(); showProgress(); });
  on('document', (photo) => { updateRow(photo); showProgress(); });
}
