//! `weir log`: the log of a stopped server.

use weir_base::disk::RealDisk;
use weir_log::{FsckReport, ShardReport};

use super::say;
use crate::cli::LogCommand;

pub(super) fn run(command: LogCommand) -> anyhow::Result<()> {
    let LogCommand::Fsck { data_dir, repair } = command;
    let dir = data_dir.join("log");
    let absent = weir_server::lost_log::look(&data_dir, repair)?;
    for missing in &absent.missing {
        say(match repair {
            true => format!("{}: missing or empty, begun anew; what was only there is lost", missing.display()),
            false => format!("{}: missing or empty, and there was a log", missing.display()),
        })?;
    }
    if absent.is_another {
        say(match repair {
            true => format!("{}: not the log that belonged to the metadata, from now on it is", dir.display()),
            false => format!("{}: not the log that belongs to the metadata", dir.display()),
        })?;
    }
    if !repair && absent.missing.contains(&dir) {
        anyhow::bail!("the log is missing; bring it back, or give up what was only there by --repair");
    }
    let report = weir_log::fsck(&dir, RealDisk::new().as_ref(), repair)?;
    for line in describe(&report) {
        say(line)?;
    }
    // Repaired damage is still lost rows: a script has to notice.
    anyhow::ensure!(
        report.is_sound() && absent.is_nothing(),
        if repair {
            "the log was damaged; see above for what is lost"
        } else {
            "the log is damaged; --repair sets the damage aside"
        }
    );
    Ok(())
}

fn describe(report: &FsckReport) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &report.copies_damaged {
        lines.push(format!("{}: one copy is damaged or missing, the other serves", file.display()));
    }
    for file in &report.copies_lost {
        lines.push(format!("{}: both copies are damaged; what was there is made out of the segments", file.display()));
    }
    for shard in &report.shards {
        describe_shard(shard, &mut lines);
    }
    lines
}

fn describe_shard(shard: &ShardReport, lines: &mut Vec<String>) {
    let sum = |count: fn(&weir_log::SegmentReport) -> u64| shard.segments.iter().map(count).sum::<u64>();
    lines.push(format!(
        "shard {}: {} segments, {} blocks, {} records, {} rows, {} index runs",
        shard.shard,
        shard.segments.len(),
        sum(|segment| segment.blocks),
        sum(|segment| segment.records),
        sum(|segment| segment.rows),
        shard.runs
    ));
    for segment in &shard.segments {
        let file = segment.file.display();
        if segment.header_damaged {
            lines.push(format!("{file}: the header is damaged"));
        }
        for damage in &segment.damage {
            let whose = match &damage.streams {
                None => "of which tenants cannot be told".to_owned(),
                Some(streams) => {
                    let names = streams.iter().map(|(tenant, stream)| format!("{tenant}.{stream}"));
                    format!("of {}", names.collect::<Vec<_>>().join(", "))
                }
            };
            lines.push(format!("{file}: damaged at byte {}, rows {whose}", damage.file_offset));
        }
        if segment.wrong_bits > 0 {
            lines.push(format!(
                "{file}: a wrong bit in each of {} blocks that can be put right; nothing is lost",
                segment.wrong_bits
            ));
        }
        if segment.torn_bytes > 0 {
            lines.push(format!(
                "{file}: {} bytes of an unfinished write at the end; nothing is lost",
                segment.torn_bytes
            ));
        }
    }
    for missing in &shard.missing {
        lines.push(format!(
            "{}: missing, offsets {} to {}",
            missing.file.display(),
            missing.from.offset,
            missing.to.offset
        ));
    }
    for stray in &shard.strays {
        lines.push(format!("{}: not a segment of this log", stray.display()));
    }
    for (file, offset, reason) in &shard.runs_damaged {
        lines.push(format!("{}: damaged at byte {offset}: {reason}", file.display()));
    }
}
