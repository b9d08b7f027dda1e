package dev.weir.nexmark;

import java.nio.file.Files;
import java.time.Duration;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/**
 * Runs q1 or q7 from one topic to another until it is killed: {@code Main API QUERY BROKERS FROM TO PARALLELISM}.
 *
 * <p>Both are there twice, in SQL and with the functions of DataStream, because neither is always the faster one. State
 * is in memory, objects are used again, and there is a checkpoint every second, which is when rows are committed.
 */
public final class Main {
    /** What a run was asked for. */
    record Run(String query, String brokers, String from, String to) {
        /** The name of the group and of the transactions. */
        String name() {
            return "flink-" + to;
        }
    }

    private Main() {}

    public static void main(String[] words) throws Exception {
        Run run = new Run(words[1], words[2], words[3], words[4]);
        StreamExecutionEnvironment environment =
                StreamExecutionEnvironment.createLocalEnvironment(Integer.parseInt(words[5]), settings());
        switch (words[0]) {
            case "sql" -> Sql.run(environment, run);
            case "functions" -> Functions.run(environment, run);
            default -> throw new IllegalArgumentException(words[0]);
        }
    }

    private static Configuration settings() throws Exception {
        Configuration settings = new Configuration();
        settings.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofSeconds(1));
        settings.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.EXACTLY_ONCE);
        String folder = Files.createTempDirectory("flink-checkpoints").toUri().toString();
        settings.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, folder);
        settings.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        settings.set(PipelineOptions.OBJECT_REUSE, true);
        settings.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(256));
        settings.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(256));
        return settings;
    }
}
