//! The table `sessions` from outside: what is kept of traffic, compared with what these tests make of the same events;
//! late events, kill -9, tenants beside each other, and what tenants may do to it.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::{Value, json};
use weir_base::Clock;
use weir_base::clock::SystemClock;

use crate::program::{Serving, until};
use crate::served_pipelines::Desk;
use crate::served_streams::post;

/// Sessions end after two seconds, and take late events for fifteen more.
const QUICK: &str = "sessions: { gap: 2s, lateness: 15s }\n";

/// A server with quick sessions, and keys of two tenants.
struct Bench {
    desk: Desk,
    server: Option<Serving>,
    config: String,
}

impl Bench {
    fn new(config: &str) -> Self {
        let desk = Desk::new();
        let config = desk.write("weir.yaml", config);
        let server = Some(Serving::start(&desk.data_dir(), &["--config", &config]));
        for tenant in ["acme", "blue"] {
            desk.works(&["tenant", "create", tenant]);
        }
        Self { desk, server, config }
    }

    fn key(&self, tenant: &str) -> String {
        self.desk.works(&["key", "create", "--tenant", tenant, "--scopes", "ingest,query,admin"]).trim().to_owned()
    }

    fn restart(&mut self, signal: Signal) {
        if let Some(server) = self.server.take() {
            server.stop(signal);
        }
        self.server = Some(Serving::start(&self.desk.data_dir(), &["--config", &self.config]));
    }

    fn send(&self, key: &str, events: &[Value]) {
        for events in events.chunks(500) {
            let body = json!({ "events": events }).to_string();
            let reply = post(self.server.as_ref().unwrap(), "/ingest", key, &body);
            assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
        }
    }

    fn rows(&self, tenant: &str, sql: &str) -> Vec<Value> {
        let output = self.desk.weir(&["query", sql, "--tenant", tenant, "--format", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        answer["rows"].as_array().cloned().unwrap_or_default()
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    u64::try_from(SystemClock::new().now().0 / 1_000_000).unwrap()
}

/// Pseudo-random numbers, the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// An event as it is sent.
#[derive(Clone, Debug)]
struct Sent {
    time: u64,
    visitor: u64,
    kind: &'static str,
    name: Option<&'static str>,
    path: Option<String>,
    user: Option<String>,
}

impl Sent {
    fn json(&self) -> Value {
        // Every third visitor is known by what the SDK calls a session, every third by the device, every third by name.
        let mut event = json!({ "type": self.kind, "timestamp": self.time });
        match self.visitor % 3 {
            0 => event["session_id"] = json!(format!("s{}", self.visitor)),
            1 => event["anonymous_id"] = json!(format!("d{}", self.visitor)),
            _ => event["user_id"] = json!(format!("u{}", self.visitor)),
        }
        if let Some(user) = &self.user {
            event["user_id"] = json!(user);
        }
        for (field, value) in [("name", self.name.map(str::to_owned)), ("path", self.path.clone())] {
            if let Some(value) = value {
                event[field] = json!(value);
            }
        }
        event
    }

    fn visitor(&self) -> String {
        match self.visitor % 3 {
            0 => format!("s:s{}", self.visitor),
            1 => format!("a:d{}", self.visitor),
            _ => format!("u:u{}", self.visitor),
        }
    }
}

/// Traffic of some visitors over so many milliseconds from `begin`; no two events of a visitor at one time.
fn traffic(seed: u64, begin: u64, span: u64, visitors: u64) -> Vec<Sent> {
    let mut dice = Dice(seed);
    let mut events = Vec::new();
    for visitor in 0..visitors {
        let mut time = begin + dice.roll(span / 2);
        while time < begin + span {
            let (kind, name, path) = match dice.roll(5) {
                0 | 1 => ("pageview", None, Some(format!("/p{}", dice.roll(9)))),
                2 => ("custom", Some(["Purchase", "search", "signup"][dice.roll(3) as usize]), None),
                3 => ("scroll", None, None),
                _ => ("click", None, None),
            };
            let user = (visitor % 3 == 1 && dice.roll(4) == 0).then(|| format!("member{visitor}"));
            events.push(Sent { time, visitor, kind, name, path, user });
            // Mostly a short step, sometimes more than the gap; never exactly the gap.
            time += if dice.roll(6) == 0 { 2_001 + dice.roll(2_000) } else { 1 + dice.roll(600) };
        }
    }
    events.sort_by_key(|event| event.time);
    events
}

/// What the events come to, one row a session, as the query below gives it: computed row by row, by nobody's engine.
fn expected(events: &[Sent], gap: u64) -> Vec<Value> {
    let mut by_visitor: BTreeMap<String, Vec<&Sent>> = BTreeMap::new();
    for event in events {
        by_visitor.entry(event.visitor()).or_default().push(event);
    }
    let mut rows = Vec::new();
    for (visitor, mut events) in by_visitor {
        events.sort_by_key(|event| event.time);
        for session in events.chunk_by(|before, after| after.time - before.time < gap) {
            let (first, last) = (session[0].time, session[session.len() - 1].time);
            let pages: Vec<&str> = session.iter().filter_map(|event| event.path.as_deref()).collect();
            let conversions = session.iter().filter(|event| matches!(event.name, Some("Purchase" | "signup"))).count();
            let acted = session.iter().any(|event| matches!(event.kind, "click" | "custom"));
            let named = session.iter().rev().find_map(|event| match event.visitor % 3 {
                2 => Some(format!("u{}", event.visitor)),
                _ => event.user.clone(),
            });
            rows.push(json!([
                visitor,
                first,
                last,
                (last - first) * 1_000_000,
                pages.first(),
                pages.last(),
                pages.len(),
                session.len(),
                conversions,
                pages.len() <= 1 && !acted && last - first < 10_000,
                conversions > 0,
                named,
            ]));
        }
    }
    rows.sort_by_key(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_u64()));
    rows
}

const KEPT: &str = "select visitor, cast(time as bigint) / 1000000, cast(end_time as bigint) / 1000000, duration_ns, \
                    entry_page, exit_page, pages, events, conversions, is_bounce, is_converted, user_id \
                    from sessions order by visitor, time";

#[test]
fn sessions_are_what_the_events_of_each_tenant_come_to_though_the_server_is_killed() {
    let mut bench = Bench::new(QUICK);
    let keys = [bench.key("acme"), bench.key("blue")];
    // There is a table before there is an event.
    assert_eq!(bench.rows("acme", "select count(*) from sessions"), [json!([0])]);
    let begin = now() + 1_000;
    let mut all = [traffic(1, begin, 9_000, 30), traffic(2, begin, 9_000, 12)];
    // Out of order by more than the gap, so that late events join sessions; and the server is killed between them.
    let mut dice = Dice(3);
    for events in &mut all {
        events.sort_by_cached_key(|event| event.time + dice.roll(4_000));
    }
    let rounds = 6;
    for round in 0..rounds {
        for (key, events) in keys.iter().zip(&all) {
            let part = events.len().div_ceil(rounds);
            let part: Vec<Value> = events.iter().skip(round * part).take(part).map(Sent::json).collect();
            bench.send(key, &part);
        }
        if matches!(round, 1 | 2 | 4) {
            std::thread::sleep(std::time::Duration::from_millis(700));
            bench.restart(Signal::KILL);
        }
    }
    for (tenant, events) in ["acme", "blue"].into_iter().zip(&all) {
        let expected = expected(events, 2_000);
        until("all sessions are there and final", || {
            let counted = bench.rows(tenant, "select count(*), count(*) filter (where is_final) from sessions");
            (counted == [json!([expected.len(), expected.len()])]).then_some(())
        });
        let kept = bench.rows(tenant, KEPT);
        assert_eq!(kept.len(), expected.len());
        for (kept, expected) in kept.iter().zip(&expected) {
            assert_eq!(kept, expected, "{tenant}");
        }
        let late = bench.rows(tenant, "select count(*) from sessions_late");
        assert!(late.is_empty() || late == [json!([0])], "{late:?}");
        // Each final result once.
        let twice = "select count(*) from (select visitor, time from sessions_history where is_final and not retracted \
                     group by 1, 2 having count(*) > 1)";
        assert_eq!(bench.rows(tenant, twice), [json!([0])]);
    }
    // Another restart changes nothing.
    let before = bench.rows("acme", "select count(*) from sessions_history");
    bench.restart(Signal::KILL);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(bench.rows("acme", "select count(*) from sessions_history"), before);
}

#[test]
fn it_is_weirs_own_and_tenants_choose_what_it_is_made_by() {
    let bench = Bench::new("sessions: { gap: 1s, lateness: 1s }\n");
    let key = bench.key("acme");
    let desk = &bench.desk;
    let page = |visitor: &str, time: u64| json!({ "type": "pageview", "anonymous_id": visitor, "path": "/", "timestamp": time });
    bench.send(&key, &[page("d1", now() - 1_500), page("d1", now())]);
    until("both sessions are final", || {
        let counted = bench.rows("acme", "select count(*) from sessions where is_final");
        (counted == [json!([2])]).then_some(())
    });
    let shown = desk.show("sessions");
    assert_eq!((&shown["built_in"], &shown["trusted"]), (&json!(true), &json!(false)), "{shown}");
    let list = desk.works(&["pipeline", "list", "--tenant", "acme"]);
    assert!(list.contains("sessions") && list.contains("built in"), "{list}");
    assert!(!desk.works(&["pipeline", "list", "--tenant", "blue"]).contains("sessions"), "blue has sent nothing");
    // Nobody takes it away or its place by mistake.
    let deleted = desk.weir(&["pipeline", "delete", "sessions", "--tenant", "acme"]);
    assert!(!deleted.status.success() && crate::program::said(&deleted).contains("switch it off"), "{deleted:?}");
    let own = desk.write("own.yaml", "pipeline: sessions\nfrom: { stream: logs }\nto: [ { stream: mine } ]\n");
    let applied = desk.apply(&own, &[]);
    assert!(!applied.status.success() && crate::program::said(&applied).contains("Weir's own"), "{applied:?}");
    let own = desk.write("own.yaml", "pipeline: mine\nfrom: { stream: logs }\nto: [ { stream: sessions } ]\n");
    let applied = desk.apply(&own, &[]);
    assert!(!applied.status.success() && crate::program::said(&applied).contains("Weir's own"), "{applied:?}");
    // When nothing comes, it rests, and an event wakes it.
    desk.wait_for("sessions", "resting");
    bench.send(&key, &[page("d2", now())]);
    until("the session of after the rest is final", || {
        let counted = bench.rows("acme", "select count(*) from sessions where is_final and visitor = 'a:d2'");
        (counted == [json!([1])]).then_some(())
    });
    // A longer gap holds from then on.
    let settings = |settings: &str| {
        let body = format!("{{\"settings\": {{\"sessions\": {settings}}}}}");
        let admin = std::fs::read_to_string(desk.data_dir().join("admin.key")).unwrap();
        let server = bench.server.as_ref().unwrap();
        let reply = crate::served_streams::request(server, "PATCH", "/api/v1/tenants/acme", admin.trim(), &body);
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    };
    settings("{\"gap\": \"3s\", \"conversions\": [\"Paid\"]}");
    until("the document has the gap", || {
        let document = desk.show("sessions")["document"].as_str().unwrap_or_default().to_owned();
        document.contains("gap: 3s").then_some(())
    });
    desk.wait_for("sessions", "running");
    let paid = json!({ "type": "custom", "name": "paid", "anonymous_id": "d3", "timestamp": now() });
    bench.send(&key, &[page("d3", now() - 2_500), paid]);
    until("there is one session, and it is converted", || {
        let kept = bench.rows("acme", "select events, is_converted from sessions where visitor = 'a:d3' and is_final");
        (kept == [json!([2, true])]).then_some(())
    });
    // Switched off, it does nothing, and what it has written stays.
    settings("{\"enabled\": false}");
    desk.wait_for("sessions", "stopped");
    bench.send(&key, &[page("d4", now())]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    let counted = bench.rows("acme", "select count(*), count(*) filter (where visitor = 'a:d4') from sessions");
    assert_eq!(counted, [json!([4, 0])]);
}

/// While events come the gap is changed over and over: each event is in one session, and those that were there stay.
#[test]
fn another_gap_loses_no_event() {
    let mut bench = Bench::new("sessions: { gap: 1h, lateness: 1h }\n");
    let key = bench.key("acme");
    let visitors = 16;
    let (mut sent, begin) = (0, now());
    let mut send = |bench: &Bench, count: u64| {
        for _ in 0..count {
            let visitor = format!("d{}", sent % visitors);
            // No two at one time.
            let time = begin + sent;
            bench.send(&key, &[json!({ "type": "pageview", "anonymous_id": visitor, "path": "/", "timestamp": time })]);
            sent += 1;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    let gap = |bench: &Bench, gap: &str| {
        let body = format!("{{\"settings\": {{\"sessions\": {{ \"gap\": \"{gap}\" }}}}}}");
        let admin = std::fs::read_to_string(bench.desk.data_dir().join("admin.key")).unwrap();
        let server = bench.server.as_ref().unwrap();
        let reply = crate::served_streams::request(server, "PATCH", "/api/v1/tenants/acme", admin.trim(), &body);
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    };
    let changed = |bench: &Bench, gap: &str| {
        until("the document has the gap", || {
            let document = bench.desk.show("sessions")["document"].as_str().unwrap_or_default().to_owned();
            document.contains(&format!("gap: {gap}")).then_some(())
        });
    };
    send(&bench, 40);
    gap(&bench, "18m");
    send(&bench, 60);
    changed(&bench, "18m");
    // It was not said yet what came last; and a kill in the middle changes nothing.
    gap(&bench, "19m");
    std::thread::sleep(std::time::Duration::from_millis(300));
    bench.restart(Signal::KILL);
    send(&bench, 20);
    changed(&bench, "19m");
    // There and back, before or after it was made anew.
    gap(&bench, "20m");
    gap(&bench, "19m");
    send(&bench, 20);
    until("all events are in sessions", || {
        let counted = bench.rows("acme", "select sum(events), count(distinct visitor) from sessions");
        (counted == [json!([sent, visitors])]).then_some(())
    });
    // Those of before are over, and say so.
    let open = bench.rows(
        "acme",
        "select count(*) from (select visitor from sessions where not is_final group by 1 having count(*) > 1)",
    );
    assert_eq!(open, [json!([0])]);
    let late = bench.rows("acme", "select count(*) from sessions_late");
    assert!(late.is_empty() || late == [json!([0])], "{late:?}");
}

#[test]
fn the_configuration_switches_it_off_for_everybody() {
    let bench = Bench::new("sessions: { enabled: false }\n");
    let key = bench.key("acme");
    bench.send(&key, &[json!({ "type": "pageview", "anonymous_id": "d1", "path": "/" })]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(bench.rows("acme", "select count(*) from sessions"), [json!([0])]);
    assert!(!bench.desk.works(&["pipeline", "list", "--tenant", "acme"]).contains("sessions"));
}

/// The log is damaged where the pipeline stands, so it fails and says so; once an operator has given up the damaged rows, it
/// goes on behind them, and counts that there were some.
#[test]
fn sessions_go_on_behind_damage_that_was_repaired() {
    let mut bench = Bench::new(QUICK);
    let acme = bench.key("acme");
    let visit = |visitor: u64| vec![json!({ "type": "pageview", "path": "/", "session_id": format!("v{visitor}") })];
    let sql = "select distinct visitor from sessions order by 1";
    (0..20).for_each(|visitor| bench.send(&acme, &visit(visitor)));
    until("all have sessions", || (bench.rows("acme", sql).len() == 20).then_some(()));
    bench.server.take().unwrap().stop(Signal::TERM);

    let shard = bench.desk.data_dir().join("log/shard-0");
    let files = std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
    let newest = files.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();

    let serve = |bench: &Bench| Some(Serving::start(&bench.desk.data_dir(), &["--config", &bench.config]));
    bench.server = serve(&bench);
    let failed = bench.desk.wait_for("sessions", "failed");
    assert!(failed["failure"]["message"].as_str().unwrap().contains("damaged"), "{failed}");
    let list = bench.desk.works(&["pipeline", "list", "--tenant", "acme"]);
    assert!(list.contains("damaged"), "{list}");
    let health = crate::served_streams::request(bench.server.as_ref().unwrap(), "GET", "/health", "", "");
    assert!(health.contains("\"degraded\"") && health.contains(" of it ") && health.contains("damaged"), "{health}");
    bench.server.take().unwrap().stop(Signal::TERM);

    bench.desk.weir(&["log", "fsck", "--repair"]);
    bench.server = serve(&bench);
    bench.send(&acme, &visit(101));
    until("who came since has a session", || bench.rows("acme", sql).contains(&json!(["s:v101"])).then_some(()));
    let shown = bench.desk.show("sessions");
    assert_eq!((&shown["nodes"][0]["counters"]["dead"], &shown["failure"]), (&json!(1), &Value::Null), "{shown}");
}
