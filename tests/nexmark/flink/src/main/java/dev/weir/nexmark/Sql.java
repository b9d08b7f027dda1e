package dev.weir.nexmark;

import java.time.ZoneOffset;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;

/** The queries in SQL. */
final class Sql {
    private static final String COLUMNS =
            "auction BIGINT, bidder BIGINT, price %s, %sdate_time TIMESTAMP_LTZ(3), extra STRING";

    private Sql() {}

    static void run(StreamExecutionEnvironment environment, Main.Run run) throws Exception {
        StreamTableEnvironment tables = StreamTableEnvironment.create(environment);
        tables.getConfig().setLocalTimeZone(ZoneOffset.UTC);
        boolean isWindowed = run.query().equals("q7");
        String watermark = isWindowed ? ", WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND" : "";
        String common = "'connector' = 'kafka', 'properties.bootstrap.servers' = '" + run.brokers()
                + "', 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'";
        tables.executeSql("CREATE TABLE bid (" + String.format(COLUMNS, "BIGINT", "channel STRING, url STRING, ")
                + watermark + ") WITH (" + common + ", 'topic' = '" + run.from()
                + "', 'properties.group.id' = '" + run.name() + "', 'scan.startup.mode' = 'earliest-offset')");
        tables.executeSql("CREATE TABLE results (" + String.format(COLUMNS, isWindowed ? "BIGINT" : "DOUBLE", "")
                + ") WITH (" + common + ", 'topic' = '" + run.to()
                + "', 'sink.delivery-guarantee' = 'exactly-once', 'sink.transactional-id-prefix' = '" + run.name()
                + "', 'properties.transaction.timeout.ms' = '60000', 'properties.compression.type' = 'lz4'"
                + ", 'properties.linger.ms' = '5', 'properties.batch.size' = '262144')");
        tables.executeSql("INSERT INTO results " + (isWindowed ? Q7 : Q1)).await();
    }

    /** With floating-point numbers; with decimal ones, which 0.908 is without a cast, it would take longer. */
    private static final String Q1 =
            "SELECT auction, bidder, CAST(0.908 AS DOUBLE) * price, date_time, extra FROM bid";

    /**
     * As a join of windows, whose state is dropped when they are over. The query as it is published joins without
     * that, keeps every bid, and is slower.
     */
    private static final String Q7 = """
            SELECT b.auction, b.bidder, b.price, b.date_time, b.extra
            FROM (SELECT * FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))) b
            JOIN (
              SELECT MAX(price) AS highest, window_start, window_end
              FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))
              GROUP BY window_start, window_end
            ) m ON b.window_start = m.window_start AND b.window_end = m.window_end AND b.price = m.highest
            """;
}
