SELECT b.auction, b.bidder, b.price, b.date_time, s.key::VARCHAR AS value
FROM bid b JOIN range(10000) AS s(key) ON b.auction % 10000 = s.key
