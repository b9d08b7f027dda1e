//! Brokers of Apache Kafka on loopback: KRaft, each a JVM of its own that is both broker and controller.
#![allow(clippy::disallowed_methods, reason = "it waits for other programs, by the wall clock and nothing else")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// How long a broker may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// Any id of the right form will do.
const CLUSTER_ID: &str = "d2VpcnRlc3RjbHVzdGVyMQ";
/// Who may come in by the door that asks.
pub const USER: (&str, &str) = ("weir", "open-sesame");

/// What the keys of the brokers are locked with.
const STORE_PASSWORD: &str = "not-a-secret";

/// What brokers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be killed soon: little memory, started fast.
    Test,
    /// To be as fast as they can.
    Measure,
}

impl Purpose {
    fn java_options(self) -> &'static [&'static str] {
        match self {
            Self::Test => &["-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"],
            Self::Measure => &["-Xmx1g", "-Xms1g", "-XX:+UseParallelGC"],
        }
    }
}

/// A cluster, killed when it is dropped.
pub struct Cluster {
    purpose: Purpose,
    java: PathBuf,
    libs: PathBuf,
    folder: PathBuf,
    brokers: Vec<Broker>,
    /// There is a door with TLS and SCRAM, too.
    has_lock: bool,
}

struct Broker {
    port: u16,
    sasl_port: u16,
    lock_port: u16,
    child: Option<Child>,
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    // Held together, so that no two are the same.
    let listeners: std::io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let ports: std::io::Result<Vec<u16>> = listeners?.iter().map(|it| Ok(it.local_addr()?.port())).collect();
    Ok(ports?)
}

impl Cluster {
    /// Starts so many brokers with the classes in `libs`, and waits until all of them answer.
    ///
    /// # Errors
    /// If there is no Java, or a broker does not come up.
    pub fn start(
        purpose: Purpose,
        (java, libs): (&Path, &Path),
        folder: &Path,
        count: usize,
        has_lock: bool,
    ) -> Result<Self> {
        let ports = free_ports(4 * count)?;
        let (doors, controllers) = ports.split_at(3 * count);
        if has_lock {
            make_keys(folder)?;
        }
        let voters: Vec<String> =
            controllers.iter().enumerate().map(|(at, port)| format!("{}@127.0.0.1:{port}", at + 1)).collect();
        let mut cluster = Self {
            purpose,
            java: java.to_owned(),
            libs: libs.to_owned(),
            folder: folder.to_owned(),
            brokers: Vec::new(),
            has_lock,
        };
        for at in 0..count {
            let [port, sasl_port, lock_port] = [0, 1, 2].map(|door| doors[3 * at + door]);
            let broker = Broker { port, sasl_port, lock_port, child: None };
            let home = cluster.home(at);
            std::fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
            let mut text = properties(at + 1, count, &broker, controllers[at], &voters.join(","), &home);
            if has_lock {
                text = locked(text, broker.lock_port, folder);
            }
            std::fs::write(home.join("server.properties"), text)?;
            let format = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties"];
            let mut command = cluster.java_command(at, "format.log")?;
            command.args(format);
            if has_lock {
                let (user, password) = USER;
                command.args(["--add-scram", &format!("SCRAM-SHA-512=[name={user},password={password}]")]);
            }
            let status = command.status().context("cannot run java")?;
            ensure!(status.success(), "cannot format the storage of a broker; see {}", home.display());
            cluster.brokers.push(broker);
        }
        for at in 0..count {
            cluster.start_broker(at)?;
        }
        cluster.wait()?;
        Ok(cluster)
    }

    fn home(&self, at: usize) -> PathBuf {
        self.folder.join(format!("broker-{}", at + 1))
    }

    fn java_command(&self, at: usize, log: &str) -> Result<Command> {
        let home = self.home(at);
        let log = File::options().create(true).append(true).open(home.join(log))?;
        let mut command = Command::new(&self.java);
        command
            .args(self.purpose.java_options())
            .arg("-cp")
            .arg(self.libs.join("*"))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// The folders in which the brokers keep the messages of a topic.
    pub fn folders(&self, topic: &str) -> Vec<PathBuf> {
        let data = (0..self.brokers.len()).map(|at| self.home(at).join("data"));
        let entries =
            data.filter_map(|data| std::fs::read_dir(data).ok()).flatten().flatten().map(|entry| entry.path());
        let is_of = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.rsplit_once('-').is_some_and(|(name, number)| name == topic && number.parse::<u32>().is_ok())
        };
        entries.filter(is_of).collect()
    }

    /// Starts a broker that does not run.
    ///
    /// # Errors
    /// If there is no Java.
    pub fn start_broker(&mut self, at: usize) -> Result<()> {
        let mut command = self.java_command(at, "broker.log")?;
        let child = command.args(["kafka.Kafka", "server.properties"]).spawn().context("cannot run java")?;
        self.brokers[at].child = Some(child);
        Ok(())
    }

    /// kill -9.
    ///
    /// # Errors
    /// If it has ended by itself.
    pub fn kill_broker(&mut self, at: usize) -> Result<()> {
        if let Some(mut child) = self.brokers[at].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// How many brokers there are.
    #[expect(clippy::len_without_is_empty, reason = "there is no cluster without brokers")]
    pub fn len(&self) -> usize {
        self.brokers.len()
    }

    /// The addresses of all brokers.
    pub fn brokers(&self) -> String {
        self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port)).collect::<Vec<_>>().join(",")
    }

    /// The door that wants a password.
    pub fn sasl_broker(&self) -> String {
        format!("127.0.0.1:{}", self.brokers[0].sasl_port)
    }

    /// The door with TLS and SCRAM, and the file with the certificate to trust; `None` if there is none.
    pub fn lock(&self) -> Option<(String, PathBuf)> {
        self.has_lock.then(|| (format!("127.0.0.1:{}", self.brokers[0].lock_port), self.folder.join("ca.pem")))
    }

    /// A client with these settings.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set("log_level", "0");
        config
    }

    /// Waits until all brokers know each other.
    ///
    /// # Errors
    /// If one of them has ended, or that takes too long.
    pub fn wait(&mut self) -> Result<()> {
        let client: BaseConsumer = self.config().create()?;
        let begun = Instant::now();
        loop {
            let alive = client.fetch_metadata(None, Duration::from_secs(2)).map_or(0, |found| found.brokers().len());
            if alive == self.brokers.len() {
                return Ok(());
            }
            for at in 0..self.brokers.len() {
                if let Some(child) = &mut self.brokers[at].child
                    && let Some(status) = child.try_wait()?
                {
                    let log = std::fs::read_to_string(self.home(at).join("broker.log")).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    bail!("a broker ended with {status}:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
                }
            }
            ensure!(begun.elapsed() < START_TIMEOUT, "{alive} of {} brokers answer", self.brokers.len());
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in 0..self.brokers.len() {
            // It may have ended by itself.
            let _ = self.kill_broker(at);
        }
    }
}

/// A key of the brokers, and its certificate.
fn make_keys(folder: &Path) -> Result<()> {
    let run = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new("keytool");
        command.args(arguments).args(["-alias", "broker", "-storepass", STORE_PASSWORD, "-keystore", "keys.p12"]);
        let output = command.current_dir(folder).output().context("cannot run keytool")?;
        ensure!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    };
    let name = ["-dname", "CN=broker", "-validity", "30", "-ext", "san=ip:127.0.0.1", "-ext", "bc=ca:true"];
    let key = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-storetype", "PKCS12"];
    run(&[key.as_slice(), name.as_slice()].concat())?;
    run(&["-exportcert", "-rfc", "-file", "ca.pem"])
}

/// The properties with one more door.
fn locked(text: String, port: u16, folder: &Path) -> String {
    let text = text
        .replace(",CONTROLLER://", &format!(",LOCK://127.0.0.1:{port},CONTROLLER://"))
        .replace("DOOR:SASL_PLAINTEXT", "DOOR:SASL_PLAINTEXT,LOCK:SASL_SSL");
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("advertised.listeners=") {
            Some(doors) => lines.push(format!("advertised.listeners={doors},LOCK://127.0.0.1:{port}")),
            None => lines.push(line.to_owned()),
        }
    }
    let store = folder.join("keys.p12");
    lines.push(format!(
        "listener.name.lock.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.lock.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.lock.ssl.keystore.type=PKCS12
listener.name.lock.ssl.keystore.location={}
listener.name.lock.ssl.keystore.password={STORE_PASSWORD}
listener.name.lock.ssl.key.password={STORE_PASSWORD}
",
        store.display()
    ));
    lines.join("\n")
}

fn properties(id: usize, count: usize, broker: &Broker, controller: u16, voters: &str, home: &Path) -> String {
    let (replicas, in_sync) = if count >= 3 { (3, 2) } else { (1, 1) };
    let (user, password) = USER;
    format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},DOOR://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},DOOR://127.0.0.1:{sasl}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DOOR:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
listener.name.door.sasl.enabled.mechanisms=PLAIN
listener.name.door.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}=\"{password}\";
log.dirs={data}
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=3
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=3
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
controlled.shutdown.enable=false
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.threads=1
",
        port = broker.port,
        sasl = broker.sasl_port,
        data = home.join("data").display(),
    )
}
