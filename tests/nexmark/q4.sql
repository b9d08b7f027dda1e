SELECT time_bucket(INTERVAL '1 minute', last + INTERVAL '999 milliseconds') AS starts, category, avg(final) AS average
FROM (
  SELECT a.id, a.category, max(b.price) AS final, max(b.date_time) AS last
  FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
  GROUP BY ALL
)
GROUP BY ALL
