SELECT *, row_number() OVER (
  PARTITION BY auction ORDER BY price DESC, date_time, bidder, channel, url, extra
) AS place
FROM bid QUALIFY place <= 10
