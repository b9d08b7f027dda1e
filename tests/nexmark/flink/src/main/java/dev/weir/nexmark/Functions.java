package dev.weir.nexmark;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.java.typeutils.ListTypeInfo;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonGenerator;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;

/** The queries with functions of our own, JSON read and written token by token. */
final class Functions {
    private static final Duration WINDOW = Duration.ofSeconds(10);
    private static final ListTypeInfo<Bid> BIDS = new ListTypeInfo<>(Bid.class);
    private static final JsonFactory JSON = new JsonFactory();

    private Functions() {}

    static void run(StreamExecutionEnvironment environment, Main.Run run) throws Exception {
        boolean isWindowed = run.query().equals("q7");
        KafkaSource<Bid> source = KafkaSource.<Bid>builder()
                .setBootstrapServers(run.brokers())
                .setTopics(run.from())
                .setGroupId(run.name())
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setValueOnlyDeserializer(new Reading(isWindowed))
                .build();
        WatermarkStrategy<Bid> times = isWindowed
                ? WatermarkStrategy.<Bid>forBoundedOutOfOrderness(Duration.ofSeconds(4))
                        .withTimestampAssigner((bid, time) -> bid.time)
                : WatermarkStrategy.noWatermarks();
        DataStream<Bid> bids = environment.fromSource(source, times, "bid");
        if (isWindowed) {
            // Each instance finds the highest of its own bids first, so that only those go to the last step.
            bids = bids.keyBy(bid -> bid.auction % 64)
                    .window(TumblingEventTimeWindows.of(WINDOW))
                    .aggregate(new Highest(), BIDS, BIDS)
                    .windowAll(TumblingEventTimeWindows.of(WINDOW))
                    .reduce(Highest::merged)
                    .flatMap((List<Bid> best, org.apache.flink.util.Collector<Bid> out) -> best.forEach(out::collect))
                    .returns(BIDS.getElementTypeInfo());
        }
        String topic = run.to();
        KafkaSink<Bid> sink = KafkaSink.<Bid>builder()
                .setBootstrapServers(run.brokers())
                .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                .setTransactionalIdPrefix(run.name())
                .setProperty("transaction.timeout.ms", "60000")
                .setProperty("compression.type", "lz4")
                .setProperty("linger.ms", "5")
                .setProperty("batch.size", "262144")
                .setRecordSerializer(KafkaRecordSerializationSchema.<Bid>builder()
                        .setTopic(topic)
                        .setValueSerializationSchema(new Writing(!isWindowed))
                        .build())
                .build();
        bids.sinkTo(sink);
        environment.execute(run.name());
    }

    /** Reads a bid. */
    private static final class Reading extends AbstractDeserializationSchema<Bid> {
        private final boolean needsTime;

        Reading(boolean needsTime) {
            super(Bid.class);
            this.needsTime = needsTime;
        }

        @Override
        public Bid deserialize(byte[] message) throws IOException {
            Bid bid = new Bid();
            try (JsonParser parser = JSON.createParser(message)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String name = parser.currentName();
                    parser.nextToken();
                    switch (name) {
                        case "auction" -> bid.auction = parser.getLongValue();
                        case "bidder" -> bid.bidder = parser.getLongValue();
                        case "price" -> bid.price = parser.getLongValue();
                        case "date_time" -> bid.dateTime = parser.getText();
                        case "extra" -> bid.extra = parser.getText();
                        default -> parser.skipChildren();
                    }
                }
            }
            if (needsTime) {
                bid.time = Instant.parse(bid.dateTime).toEpochMilli();
            }
            return bid;
        }
    }

    /** Writes a bid. */
    private static final class Writing implements SerializationSchema<Bid> {
        private final boolean isConverted;

        Writing(boolean isConverted) {
            this.isConverted = isConverted;
        }

        @Override
        public byte[] serialize(Bid bid) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream(256);
            try (JsonGenerator out = JSON.createGenerator(bytes)) {
                out.writeStartObject();
                out.writeNumberField("auction", bid.auction);
                out.writeNumberField("bidder", bid.bidder);
                if (isConverted) {
                    out.writeNumberField("price", 0.908 * bid.price);
                } else {
                    out.writeNumberField("price", bid.price);
                }
                out.writeStringField("date_time", bid.dateTime);
                out.writeStringField("extra", bid.extra);
                out.writeEndObject();
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
            return bytes.toByteArray();
        }
    }

    /** The highest bids; of the same price all of them. */
    private static final class Highest implements AggregateFunction<Bid, List<Bid>, List<Bid>> {
        @Override
        public List<Bid> createAccumulator() {
            return new ArrayList<>();
        }

        @Override
        public List<Bid> add(Bid bid, List<Bid> best) {
            if (!best.isEmpty() && best.get(0).price < bid.price) {
                best.clear();
            }
            if (best.isEmpty() || best.get(0).price == bid.price) {
                best.add(bid);
            }
            return best;
        }

        @Override
        public List<Bid> getResult(List<Bid> best) {
            return best;
        }

        @Override
        public List<Bid> merge(List<Bid> one, List<Bid> other) {
            return merged(one, other);
        }

        static List<Bid> merged(List<Bid> one, List<Bid> other) {
            if (one.isEmpty() || other.isEmpty()) {
                return one.isEmpty() ? other : one;
            }
            long difference = one.get(0).price - other.get(0).price;
            if (difference == 0) {
                List<Bid> both = new ArrayList<>(one);
                both.addAll(other);
                return both;
            }
            return difference > 0 ? one : other;
        }
    }
}
