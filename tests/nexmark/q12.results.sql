SELECT bidder, sum(bids)::BIGINT AS bids FROM results GROUP BY bidder
