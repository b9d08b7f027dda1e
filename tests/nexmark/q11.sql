WITH begun AS (
  SELECT bidder, date_time, coalesce(date_time - lag(date_time) OVER one >= INTERVAL '10 seconds', true) AS begins
  FROM bid WINDOW one AS (PARTITION BY bidder ORDER BY date_time)
), numbered AS (
  SELECT *, sum(begins::INT) OVER (PARTITION BY bidder ORDER BY date_time RANGE UNBOUNDED PRECEDING) AS session FROM begun
)
SELECT bidder, count(*) AS bids, min(date_time) AS starts, max(date_time) + INTERVAL '10 seconds' AS ends
FROM numbered GROUP BY bidder, session
