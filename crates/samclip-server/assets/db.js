// What survives a reload: photos, objects, masks and history in the browser's IndexedDB; settings in localStorage.
//
// One tab writes. A second tab on the same server sees the work but does not save (Web Locks, where the browser has them).

const NAME = 'samclip', VERSION = 1;
let database = null;
let writable = true;

function promise(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Opens the database. False when this tab cannot save (another tab does, or the browser forbids it). */
export async function open() {
  writable = await onlyWriter();
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = () => {
    request.result.createObjectStore('photos', { keyPath: 'id' });
    request.result.createObjectStore('documents', { keyPath: 'id' });
    request.result.createObjectStore('session');
  };
  database = await promise(request);
  return writable;
}

function onlyWriter() {
  if (!navigator.locks) return Promise.resolve(true);
  return new Promise((resolve) => {
    // A tab that is being reloaded gives its lock back within this time.
    navigator.locks.request('samclip-page', { signal: AbortSignal.timeout(1500) }, () => {
      resolve(true);
      return new Promise(() => {}); // held until the tab is closed
    }).catch(() => resolve(false));
  });
}

/** {photos, documents: Map id -> document, session}. */
export async function load() {
  const transaction = database.transaction(['photos', 'documents', 'session']);
  const [photos, documents, current] = await Promise.all([
    promise(transaction.objectStore('photos').getAll()),
    promise(transaction.objectStore('documents').getAll()),
    promise(transaction.objectStore('session').get('current')),
  ]);
  return { photos, documents: new Map(documents.map((entry) => [entry.id, entry])), current };
}

function write(store, use) {
  if (!database || !writable) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(store, 'readwrite');
    use(transaction.objectStore(store));
    transaction.oncomplete = resolve;
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export const putPhoto = (photo) => write('photos', (store) => store.put(photo));
export const putDocument = (document) => write('documents', (store) => store.put(document));
export const putCurrent = (id) => write('session', (store) => store.put(id, 'current'));

export async function removePhoto(id) {
  await write('photos', (store) => store.delete(id));
  await write('documents', (store) => store.delete(id));
}

const DEFAULTS = {
  theme: 'auto', opacity: 45, preview: true, brush: 24, format: 'coco', scope: 'one', shortcuts: true,
  model: '', adapter: '', panel: 'objects',
};

/** Settings of this browser, changed by `saveSettings`. */
export const settings = { ...DEFAULTS, ...readSettings() };

function readSettings() {
  try {
    return JSON.parse(localStorage.getItem('samclip') || '{}');
  } catch {
    return {};
  }
}

export function saveSettings(changes) {
  Object.assign(settings, changes);
  try {
    localStorage.setItem('samclip', JSON.stringify(settings));
  } catch { /* a browser that forbids storage still works until it is closed */ }
}
