WITH counts AS (
  SELECT time_bucket(INTERVAL '2 seconds', date_time) + i * INTERVAL '2 seconds' AS ends, auction, count(*) AS num
  FROM bid, range(1, 6) AS of_row(i)
  GROUP BY ALL
)
SELECT ends, auction, num FROM counts QUALIFY num = max(num) OVER (PARTITION BY ends)
