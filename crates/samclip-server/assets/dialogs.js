// The dialogs: download and keyboard. Native <dialog>s, so focus, Escape and the backdrop are the browser's.

import { saveSettings, settings } from './db.js';
import { byId, element } from './dom.js';
import { emit } from './events.js';
import { download, exported, FORMATS, pack } from './export.js';
import { KEYS } from './keys.js';
import { current, objects, state, waiting } from './store.js';

function fillFormats() {
  const legend = byId('formats').firstElementChild;
  byId('formats').replaceChildren(legend, ...Object.entries(FORMATS).map(([id, [title, note]]) => {
    const radio = element('input', { type: 'radio', name: 'format', value: id, checked: id === settings.format });
    const words = element('span', {}, element('b', {}, title), element('small', {}, note));
    return element('label', { className: 'choice' }, radio, words);
  }));
}

const value = (name) => document.querySelector(`#download-dialog input[name="${name}"]:checked`)?.value;
const count = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`;

export function openDownload() {
  const photo = current();
  if (!photo) return emit('status', 'Add a photo first');
  const all = state.photos.map((photo) => exported(photo).length);
  const here = exported(photo).length, sum = all.reduce((a, b) => a + b, 0);
  byId('scope-one').textContent = `${photo.name}: ${count(here, 'object')}`;
  byId('scope-all').textContent = `${count(all.filter(Boolean).length, 'photo')} with ${count(sum, 'object')}`;
  const scope = settings.scope === 'all' && state.photos.length > 1 ? 'all' : 'one';
  for (const radio of document.querySelectorAll('#scopes input')) radio.checked = radio.value === scope;
  fillFormats();
  note();
  byId('download-dialog').showModal();
  document.querySelector('#formats input:checked')?.focus();
}

function note() {
  const photos = value('scope') === 'all' ? state.photos : [current()];
  const some = photos.some((photo) => exported(photo).length);
  const waits = photos.reduce((sum, photo) => sum + waiting(photo).length, 0);
  const empty = photos.reduce((sum, photo) => sum + objects(photo).length - exported(photo).length, 0) - waits;
  const parts = [];
  if (!some) parts.push('Nothing to download yet.');
  if (waits) parts.push(`${count(waits, 'object')} still waiting for the server and left out.`);
  if (some && empty > 0) parts.push(`${count(empty, 'object')} without pixels left out.`);
  byId('download-note').textContent = parts.join(' ');
  byId('download-go').disabled = !some;
}

async function go(event) {
  event.preventDefault();
  const photos = value('scope') === 'all' ? [...state.photos] : [current()];
  saveSettings({ format: value('format'), scope: value('scope') });
  const button = byId('download-go');
  button.disabled = true;
  try {
    const file = await pack(value('format'), photos, (done, total) => {
      byId('download-note').textContent = `${done} of ${total} photos …`;
    });
    download(file);
    emit('status', `Downloaded ${file.name}`);
    byId('download-dialog').close();
  } catch (error) {
    byId('download-note').textContent = error.message;
  }
  button.disabled = false;
}

export function openHelp() {
  byId('key-table').replaceChildren(...KEYS.map(([title, rows]) => {
    const key = (name) => element('kbd', {}, name.replace('_', ' '));
    const lines = rows.flatMap(([keys, what]) => [element('dt', {}, what), element('dd', {}, ...keys.split(' ').map(key))]);
    return element('section', {}, element('h3', {}, title), element('dl', {}, ...lines));
  }));
  byId('shortcuts').checked = settings.shortcuts;
  byId('help-dialog').showModal();
}

export function start() {
  byId('download').addEventListener('click', openDownload);
  byId('help').addEventListener('click', openHelp);
  byId('download-dialog').addEventListener('change', note);
  byId('download-dialog').firstElementChild.addEventListener('submit', go);
  byId('shortcuts').addEventListener('change', (event) => saveSettings({ shortcuts: event.target.checked }));
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.id !== 'key-dialog' && dialog.close('cancel'));
    dialog.querySelector('[data-close]')?.addEventListener('click', () => dialog.close('cancel'));
  }
}
