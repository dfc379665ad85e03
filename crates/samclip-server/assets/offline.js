// The service worker: a reload while the server is gone shows the page as it was.
//
// The server is asked first, always; only when it cannot be reached the kept file is taken. Requests to the API are not
// touched: the page itself waits for the server (api.js). page.rs has a test that no file is missing here.

const CACHE = 'samclip-page';
const NAMES = [
  'actions.js', 'api.js', 'app.js', 'db.js', 'dialogs.js', 'dom.js', 'events.js', 'export.js', 'icon.svg', 'input.js',
  'jobs.js', 'keys.js', 'marks.js', 'masks.js', 'modes.js', 'objects.js', 'photo.js', 'photos.js', 'raster.js', 'rle.js',
  'search.js', 'status.js', 'store.js', 'style.css', 'theme.css', 'view.js', 'worker.js', 'zip.js',
];

async function keepAll() {
  const cache = await caches.open(CACHE);
  await cache.addAll(['/', ...NAMES.map((name) => `/assets/${name}`)]);
  await self.skipWaiting();
}

async function fresh(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (!kept) throw error;
    return kept;
  }
}

self.addEventListener('install', (event) => event.waitUntil(keepAll()));
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const { origin, pathname } = new URL(event.request.url);
  const isPage = pathname === '/' || pathname.startsWith('/assets/');
  if (event.request.method === 'GET' && origin === self.location.origin && isPage) event.respondWith(fresh(event.request));
});
