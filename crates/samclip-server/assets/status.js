// The header's connection and models, and the footer: what happened, what went wrong, where the pointer is.

import { connect, isEmbedding, net, unlock } from './api.js';
import { saveSettings, settings } from './db.js';
import { byId } from './dom.js';
import { emit, on } from './events.js';
import { waitingCount } from './jobs.js';
import { current, state } from './store.js';
import { view } from './view.js';

const chip = byId('connection');
let troubleTimer = 0, told = '';

function showConnection() {
  const waits = waitingCount();
  const seconds = Math.max(0, Math.ceil((net.retryAt - Date.now()) / 1000));
  const again = seconds ? `${seconds} s` : 'trying …';
  const text = {
    connecting: 'Connecting …',
    online: current() && isEmbedding(current()) ? 'Reading photo …' : net.model || 'Connected',
    offline: `Offline · ${again}`,
    starting: `Starting · ${again}`,
    locked: 'Needs a key',
  }[net.phase];
  chip.dataset.phase = net.phase;
  if (chip.lastElementChild.textContent !== text) chip.lastElementChild.textContent = text;
  chip.title = net.phase === 'online' ? `Connected to ${location.host}` : 'Try now';
  chip.setAttribute('aria-label', net.phase === 'online' ? `Connected: ${text}` : `${text}. Try now`);
  announce(waits);
}

/** Says once what a lost or regained server means for the work. */
function announce(waits) {
  const lost = net.phase === 'offline' || net.phase === 'starting';
  const prompts = waits === 1 ? '1 prompt waits' : `${waits} prompts wait`;
  const text = lost ? `${net.phase === 'offline' ? 'The server is gone' : 'The server is starting'}. ${waits ? prompts : 'Nothing is lost'}; painting, undo and downloads still work.` : '';
  if (text === told) return;
  if (!text && told) say('The server is back');
  told = text;
  if (text) say(text);
}

export function say(text) {
  byId('status').textContent = text;
}

function complain(text) {
  clearTimeout(troubleTimer);
  byId('trouble').textContent = text.charAt(0).toUpperCase() + text.slice(1);
  troubleTimer = setTimeout(() => { byId('trouble').textContent = ''; }, 12000);
}

function askForKey() {
  const dialog = byId('key-dialog');
  if (dialog.open) return;
  byId('api-key').value = '';
  dialog.onclose = () => byId('api-key').value && unlock(byId('api-key').value);
  dialog.showModal();
}

function fill(select, box, values, value, hide) {
  box.hidden = hide;
  select.replaceChildren(...values.map(([id, label]) => new Option(label, id, false, id === value)));
}

function showModels() {
  const models = net.models.map((model) => [model.name, model.name]);
  fill(byId('model'), byId('model-box'), models, net.model, models.length < 2);
  const adapters = net.models.find((model) => model.name === net.model)?.adapters || [];
  const choices = [['', 'no adapter'], ...adapters.map((name) => [name, name])];
  showTexts(net.models.find((model) => model.name === net.model)?.texts !== false);
  fill(byId('adapter'), byId('adapter-box'), choices, settings.adapter, !adapters.length);
}

/** A model without texts finds nothing by name. */
function showTexts(able) {
  for (const id of ['text', 'find', 'heat']) byId(id).disabled = !able;
  byId('find-all').disabled = !able || state.photos.length < 2;
  byId('text').placeholder = able ? 'Find by name: dog, chair …' : 'This model knows no names';
}

function changeModel() {
  net.model = byId('model').value || net.model;
  saveSettings({ model: net.model, adapter: byId('adapter').value });
  showModels();
  emit('photos');
  say('New prompts go to the chosen model; masks that are there stay');
}

function showView() {
  byId('zoom-value').textContent = `${Math.round(view.scale / view.ratio * 100)} %`;
  const photo = current();
  byId('size').textContent = photo?.width ? `${photo.width} × ${photo.height}` : '';
}

function showPointer(point) {
  const photo = current();
  const inside = point && photo && point[0] >= 0 && point[1] >= 0 && point[0] < photo.width && point[1] < photo.height;
  byId('where').textContent = inside ? `${Math.floor(point[0])}, ${Math.floor(point[1])}` : '';
}

export function start() {
  chip.addEventListener('click', () => net.phase === 'locked' ? askForKey() : net.phase === 'online' || connect());
  byId('model').addEventListener('change', changeModel);
  byId('adapter').addEventListener('change', changeModel);
  on('net', () => {
    showConnection();
    if (net.phase === 'locked') askForKey();
    if (net.phase === 'online') showModels();
  });
  on('document photos', showConnection);
  byId('trouble').addEventListener('click', () => { byId('trouble').textContent = ''; });
  on('view photos', showView);
  on('pointer', showPointer);
  on('status', say);
  on('trouble', complain);
  setInterval(() => net.phase !== 'online' && showConnection(), 500);
}
