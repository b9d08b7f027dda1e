SELECT p.id, p.name, p.starts
FROM (SELECT DISTINCT id, name, time_bucket(INTERVAL '10 seconds', date_time) AS starts FROM person) p
JOIN (SELECT DISTINCT seller, time_bucket(INTERVAL '10 seconds', date_time) AS starts FROM auction) a
  ON p.id = a.seller AND p.starts = a.starts
