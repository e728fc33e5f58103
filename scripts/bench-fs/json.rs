//! The results for programs: every sample, not only the medians that the tables show.

use serde_json::{Map, Value, json};

use crate::bars::bar;
use crate::report::{Report, Role, Row, Unit};

/// Facts and results as one JSON object.
///
/// `rows` holds for each workload the seconds of every run by subject, and for each subject that is
/// Nexus its ratio of medians to every other one: 2.0 takes twice as long. A workload's rate is
/// `amount / median_s`, in what `unit` says.
pub fn json(report: &Report, facts: &[(String, String)]) -> Value {
    let subjects: Vec<Value> = report
        .subjects
        .iter()
        .map(|subject| json!({ "name": subject.name, "role": role(subject.role), "transport": subject.transport }))
        .collect();
    let facts: Vec<Value> = facts.iter().map(|(what, fact)| json!({ "what": what, "fact": fact })).collect();
    let rows: Vec<Value> = report.rows.iter().map(|row| one(report, row)).collect();
    json!({ "format": 1, "facts": facts, "subjects": subjects, "rows": rows })
}

fn one(report: &Report, row: &Row) -> Value {
    let (mut results, mut ratios, mut met) = (Map::new(), Map::new(), Map::new());
    for (i, samples) in row.samples.iter().enumerate().filter(|(_, samples)| !samples.is_empty()) {
        let (median, spread) = (samples.median_s(), samples.spread());
        let result = json!({ "seconds": samples.seconds(), "median_s": median, "spread": spread });
        results.insert(report.name(i).to_owned(), result);
    }
    for own in report.with_role(Role::Nexus) {
        let others = (0..report.subjects.len()).filter(|other| *other != own);
        for (other, ratio) in others.filter_map(|other| Some((other, row.ratio(own, other)?))) {
            ratios.insert(format!("{}/{}", report.name(own), report.name(other)), json!(ratio));
        }
        if let Some(good) = report.met(row, own) {
            met.insert(report.name(own).to_owned(), json!(good));
        }
    }
    let (unit, amount) = match row.unit {
        Unit::Operations(count) => ("operations", Some(count)),
        Unit::Bytes(count) => ("bytes", Some(count)),
        Unit::Seconds => ("seconds", None),
        Unit::Latency => ("seconds an operation", None),
    };
    json!({
        "workload": row.name, "unit": unit, "amount": amount, "results": results, "ratios": ratios,
        "bar": bar(&row.name).map(|bar| bar.show("local")), "met": met,
    })
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Nexus => "nexus",
        Role::Floor => "floor",
        Role::Local => "local",
        Role::Peer => "peer",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::Subject;

    #[test]
    fn every_sample_is_there_and_nothing_that_was_not_run() {
        let subject = |name: &str, role| Subject { name: name.to_owned(), role, transport: String::new() };
        let subjects = vec![subject("nexus", Role::Nexus), subject("ext4", Role::Local), subject("p", Role::Peer)];
        let mut report = Report::new(subjects);
        for (subject, ms) in [(0, 300), (0, 100), (1, 100)] {
            report.record("untar", Unit::Operations(7), subject, Duration::from_millis(ms));
        }
        let told = json(&report, &[("kernel".to_owned(), "6".to_owned())]);
        assert_eq!(told["facts"][0], json!({ "what": "kernel", "fact": "6" }));
        let row = &told["rows"][0];
        assert_eq!(row["results"]["nexus"]["seconds"], json!([0.3, 0.1]));
        assert_eq!(row["results"].as_object().unwrap().len(), 2);
        assert_eq!(row["ratios"], json!({ "nexus/ext4": 2.0 }));
        assert_eq!((&row["amount"], &row["met"]), (&json!(7), &json!({ "nexus": true })));
        assert_eq!(told["subjects"][2]["role"], "peer");
    }
}
