// Segment's official SDK for Node, pointed at Weir by its `host` setting.
'use strict';

const { Analytics } = require('@segment/analytics-node');

const analytics = new Analytics({
  writeKey: process.env.WEIR_KEY,
  host: process.env.WEIR_HTTP,
  maxRetries: 2,
});
const errors = [];
analytics.on('error', (error) => errors.push(error));

async function main() {
  analytics.identify({ userId: 'user-1', traits: { email: 'ada@example.org', plan: 'free' } });
  analytics.page({ userId: 'user-1', category: 'Shop', name: 'Home', properties: { url: 'https://shop.example/' } });
  for (let number = 0; number < 10; number += 1) {
    analytics.track({
      userId: 'user-1',
      event: 'Order Completed',
      properties: { total: 12.5, order_id: `o-${number}` },
    });
  }
  await analytics.closeAndFlush();
  if (errors.length > 0) {
    throw new Error(`not everything was delivered: ${JSON.stringify(errors)}`);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
