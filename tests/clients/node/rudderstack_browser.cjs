// RudderStack's JavaScript SDK as a page would run it: evaluated inside a DOM (jsdom), with Weir as
// its data plane and as the place of its settings.
'use strict';

const fs = require('fs');
const { JSDOM, VirtualConsole } = require('jsdom');

const weir = process.env.WEIR_HTTP;
const problems = [];
const virtualConsole = new VirtualConsole();
for (const level of ['error', 'warn', 'jsdomError']) {
  virtualConsole.on(level, (...words) => problems.push(words.map((word) => word?.message ?? String(word)).join(' ')));
}
const { window } = new JSDOM('<!doctype html><html><head><title>Shop</title></head><body></body></html>', {
  url: 'https://shop.example/',
  pretendToBeVisual: true,
  runScripts: 'outside-only',
  virtualConsole,
});

// The package's build with all plugins inside, so that nothing is loaded from RudderStack's servers.
const source = fs.readFileSync(require.resolve('@rudderstack/analytics-js/bundled'), 'utf8');
window.eval(`(function () { var module = { exports: {} }; var exports = module.exports;
${source}
window.rudderstack = module.exports; })();`);

const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

async function until(what, limit, condition) {
  for (let waited = 0; !condition(); waited += 50) {
    if (waited > limit) {
      throw new Error(`${what} not within ${limit} ms: ${problems.join('; ')}`);
    }
    await sleep(50);
  }
}

/** What waits in the SDK's queues, which are in local storage. */
function waiting() {
  const names = Object.keys(window.localStorage).filter((name) => /\.(queue|inProgress|batchQueue)$/.test(name));
  return names.map((name) => window.localStorage.getItem(name)).filter((text) => text && !/^"?(\[\]|\{\})"?$/.test(text));
}

async function main() {
  const analytics = new window.rudderstack.RudderAnalytics();
  let loaded = false;
  analytics.load(process.env.WEIR_KEY, weir, {
    configUrl: weir,
    destSDKBaseURL: `${weir}/none`,
    pluginsSDKBaseURL: `${weir}/none`,
    lockIntegrationsVersion: true,
    lockPluginsVersion: true,
    // jsdom lacks a few things browsers have; fetching substitutes for them would need the network.
    polyfillIfRequired: false,
    onLoaded: () => { loaded = true; },
  });
  await until('the SDK is loaded', 20_000, () => loaded);
  analytics.identify('user-1', { email: 'ada@example.org', plan: 'free' });
  analytics.page('Shop', 'Home', { path: '/' });
  for (let number = 0; number < 10; number += 1) {
    analytics.track('Order Completed', { total: 12.5, order_id: `o-${number}` });
  }
  // The SDK has no flush: all is sent once its queues are empty, and stay so.
  await sleep(1500);
  await until('the queues are empty', 20_000, () => waiting().length === 0);
  await sleep(500);
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
