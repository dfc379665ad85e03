// Where the page starts: settings, the stored work, the parts, the server.

import * as actions from './actions.js';
import * as api from './api.js';
import { saveSettings, settings } from './db.js';
import * as dialogs from './dialogs.js';
import { byId, element } from './dom.js';
import { emit, on } from './events.js';
import * as input from './input.js';
import * as keys from './keys.js';
import * as modes from './modes.js';
import * as objects from './objects.js';
import * as photos from './photos.js';
import * as search from './search.js';
import * as status from './status.js';
import * as store from './store.js';
import * as view from './view.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

function showTheme() {
  document.documentElement.dataset.theme = settings.theme;
}

function changeTheme() {
  const isDark = settings.theme === 'dark' || (settings.theme === 'auto' && dark.matches);
  const wanted = isDark ? 'light' : 'dark';
  // Back at what the system says, the page follows the system again.
  saveSettings({ theme: (wanted === 'dark') === dark.matches ? 'auto' : wanted });
  showTheme();
}

function showTool() {
  const { name, removing } = input.tool;
  byId('stage').dataset.tool = name;
  for (const button of document.querySelectorAll('#tools [data-tool]')) {
    button.setAttribute('aria-pressed', String(button.dataset.tool === name));
  }
  byId('removing').setAttribute('aria-pressed', String(removing));
}

function showSettings() {
  byId('brush').value = settings.brush;
  byId('brush-value').textContent = `${settings.brush} px`;
  byId('opacity').value = settings.opacity;
  byId('opacity-value').textContent = `${settings.opacity} %`;
  byId('preview').checked = settings.preview;
  byId('panel').dataset.panel = settings.panel;
  for (const tab of document.querySelectorAll('[data-panel][aria-pressed]')) {
    tab.setAttribute('aria-pressed', String(tab.dataset.panel === settings.panel));
  }
}

/** The bar over the photo while a mode is on. */
function showMode() {
  const { name, busy, masks, shown, keep, text } = modes.mode;
  const bar = byId('mode-bar');
  byId('everything').setAttribute('aria-pressed', String(name === 'everything'));
  byId('heat').setAttribute('aria-pressed', String(name === 'heat'));
  byId('stage').dataset.mode = name || '';
  bar.hidden = !name;
  if (!name || bar.querySelector('input')?.matches(':active')) return;
  const done = element('button', { type: 'button', textContent: 'Done', onclick: () => modes.leave() });
  if (busy) return bar.replaceChildren(element('span', { className: 'title', textContent: name === 'heat' ? `Looking for “${text}” …` : 'Finding everything …' }), element('button', { type: 'button', textContent: 'Cancel', onclick: () => modes.leave() }));
  if (name === 'heat') {
    const find = element('button', { type: 'button', className: 'primary', textContent: 'Make an object' });
    find.onclick = () => { const { photo } = modes.mode; modes.leave(); actions.find(photo, [text]); };
    return bar.replaceChildren(element('span', { className: 'title', textContent: text }), element('span', { className: 'ramp', title: 'unlikely to likely' }), find, done);
  }
  const title = element('span', { className: 'title mono', textContent: `${shown.length} of ${masks.length}` });
  const slider = element('input', { type: 'range', min: 2, max: 100, value: Math.round(keep * 100) });
  slider.oninput = () => { modes.show(slider.value / 100).then(() => { title.textContent = `${modes.mode.shown.length} of ${modes.mode.masks.length}`; }); };
  slider.onchange = () => setTimeout(showMode);
  const all = element('button', { type: 'button', textContent: 'Add all shown', disabled: !shown.length, onclick: () => modes.pickAll() });
  bar.replaceChildren(title, element('label', {}, 'Best', slider, 'All'), all, Object.assign(done, { className: 'primary' }));
}

function connectControls() {
  for (const button of document.querySelectorAll('#tools [data-tool]')) {
    button.addEventListener('click', () => input.setTool(button.dataset.tool));
  }
  const clicks = {
    theme: changeTheme, everything: keys.everything, 'zoom-in': () => view.zoom(1.25), 'zoom-out': () => view.zoom(0.8),
    'zoom-fit': view.fit, 'zoom-value': () => view.zoom(view.view.ratio / view.view.scale),
    removing: () => input.setRemoving(!input.tool.removing),
    undo: () => actions.undo(store.current()), redo: () => actions.redo(store.current()),
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener('click', action);
  byId('brush').addEventListener('input', (event) => input.setBrush(Number(event.target.value)));
  byId('opacity').addEventListener('input', (event) => change({ opacity: Number(event.target.value) }));
  byId('preview').addEventListener('change', (event) => change({ preview: event.target.checked }));
  for (const tab of document.querySelectorAll('#panel .tabs button')) tab.addEventListener('click', () => change({ panel: tab.dataset.panel }));
}

function change(changes) {
  saveSettings(changes);
  emit('settings');
}

/** Takes back the prompts that still wait. */
function stopBatch() {
  for (const photo of store.state.photos) {
    const waiting = new Set(store.waiting(photo));
    if (waiting.size) store.commit(photo, 'stop', store.objects(photo).filter((object) => !waiting.has(object)));
  }
  emit('status', 'Stopped. What was found stays');
}

async function main() {
  showTheme();
  on('settings', showSettings);
  on('tool', showTool);
  on('mode', showMode);
  connectControls();
  for (const part of [view, input, keys, search, objects, status, dialogs]) part.start();
  photos.start(stopBatch);
  showSettings();
  showTool();
  try {
    if (!await store.restore()) emit('trouble', 'another tab has this work open: changes made here are not saved');
  } catch (error) {
    emit('trouble', `this browser does not let the page save: work is lost on reload (${error.message})`);
  }
  emit('photos');
  addEventListener('pagehide', store.flush);
  document.addEventListener('visibilitychange', store.flush);
  await api.start();
}

// Where the browser allows it (https, or this machine), a reload works without the server.
navigator.serviceWorker?.register('/assets/offline.js', { scope: '/' }).catch(() => {});
main();
