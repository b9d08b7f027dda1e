"""Segment's official SDK for Python, pointed at Weir by its `host` setting."""

import os
import sys

import segment.analytics as analytics

errors = []
analytics.write_key = os.environ["WEIR_KEY"]
analytics.host = os.environ["WEIR_HTTP"]
analytics.gzip = True
analytics.max_retries = 2
analytics.on_error = lambda error, items: errors.append(error)

analytics.identify("user-1", {"email": "ada@example.org", "plan": "free"})
analytics.page("user-1", "Shop", "Home", {"url": "https://shop.example/", "path": "/"})
for number in range(10):
    analytics.track("user-1", "Order Completed", {"total": 12.5, "order_id": f"o-{number}"})
analytics.shutdown()
if errors:
    sys.exit(f"not everything was delivered: {errors}")
