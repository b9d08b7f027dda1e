// RudderStack's JavaScript SDK as a page would run it: in a DOM (jsdom), with Weir as its data
// plane and as the place of its settings.
'use strict';

const { JSDOM } = require('jsdom');

const weir = process.env.WEIR_HTTP;
const dom = new JSDOM('<!doctype html><html><head><title>Shop</title></head><body></body></html>', {
  url: 'https://shop.example/',
  pretendToBeVisual: true,
});
for (const name of ['window', 'document', 'navigator', 'localStorage', 'sessionStorage', 'XMLHttpRequest', 'location',
  'Event', 'CustomEvent', 'MutationObserver', 'HTMLElement', 'Node', 'addEventListener', 'removeEventListener']) {
  const value = name === 'window' ? dom.window : dom.window[name];
  const bound = typeof value === 'function' && /^(add|remove)/.test(name) ? value.bind(dom.window) : value;
  Object.defineProperty(globalThis, name, { value: bound, configurable: true, writable: true });
}

const { RudderAnalytics } = require('@rudderstack/analytics-js/bundled');

function ready(analytics) {
  return new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error('the SDK is not ready after 20 s')), 20_000).unref();
    analytics.load(process.env.WEIR_KEY, weir, {
      configUrl: weir,
      // The page's own endpoints only: nothing is loaded from RudderStack's servers.
      destSDKBaseURL: `${weir}/none`,
      pluginsSDKBaseURL: `${weir}/none`,
      lockIntegrationsVersion: true,
      lockPluginsVersion: true,
      onLoaded: resolve,
    });
  });
}

const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

async function main() {
  const analytics = new RudderAnalytics();
  await ready(analytics);
  analytics.identify('user-1', { email: 'ada@example.org', plan: 'free' });
  analytics.page('Shop', 'Home', { path: '/' });
  for (let number = 0; number < 10; number += 1) {
    analytics.track('Order Completed', { total: 12.5, order_id: `o-${number}` });
  }
  // The SDK has no flush: it sends from a queue in local storage, which is empty once all is sent.
  for (let waited = 0; waited < 20_000; waited += 100) {
    await sleep(100);
    const queues = Object.keys(dom.window.localStorage).filter((name) => /rudder_.*queue|rudder_.*rudder_beacon/i.test(name));
    const left = queues.map((name) => dom.window.localStorage.getItem(name)).filter((text) => text && text.length > 2);
    if (waited > 1000 && left.length === 0) {
      break;
    }
  }
  await sleep(500);
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
