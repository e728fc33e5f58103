//! Groups in which nothing happens rest, and wake at whatever happens.

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn rests(joined: &Arc<JoinedZone>) -> bool {
    joined.zone().group().rest().is_resting()
}

fn leads(joined: &Arc<JoinedZone>) -> bool {
    joined.zone().group().status().role == Role::Leader
}

/// Three nodes with a zone each has founded and the others have joined.
struct Three {
    machines: [Machine; 3],
    nodes: Vec<Arc<ZoneNode>>,
}

impl Three {
    fn new() -> Three {
        let mut machines = [Machine::new(1), Machine::new(2), Machine::new(3)];
        for machine in &mut machines {
            machine.rest = RestConfig { after: Duration::from_millis(500), ..RestConfig::default() };
        }
        let nodes: Vec<_> = machines.iter().map(Machine::started).collect();
        for place in 0..3 {
            let zone = nodes[place].found(&format!("zone {place}"), ROOT).unwrap();
            for step in 1..3 {
                let invite = nodes[place].invite(&zone, Duration::from_secs(60)).unwrap();
                nodes[(place + step) % 3].join(&invite).unwrap();
            }
        }
        Three { machines, nodes }
    }

    fn named(&self, node: usize, name: &str) -> Arc<JoinedZone> {
        self.nodes[node].zones().into_iter().find(|joined| joined.name() == name).unwrap()
    }

    /// The zone that node 0 has founded, at all.
    fn first(&self) -> Vec<Arc<JoinedZone>> {
        (0..3).map(|node| self.named(node, "zone 0")).collect()
    }

    fn close(self) {
        self.nodes.iter().for_each(|node| node.close().unwrap());
    }
}

fn await_rest(three: &Three) {
    let all: Vec<_> = three.nodes.iter().flat_map(|node| node.zones()).collect();
    wait_until("all rest", || all.iter().all(rests));
}

#[test]
fn idle_zones_rest_and_stay_so_until_something_happens() {
    let three = Three::new();
    await_rest(&three);
    let zones = three.first();
    let terms: Vec<u64> = zones.iter().map(|joined| joined.zone().group().status().term).collect();
    // Longer than a leader that is not heard stays one.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(zones.iter().all(rests), "nothing happens");
        let reports: Vec<_> = zones.iter().map(|joined| joined.report().unwrap()).collect();
        assert!(reports.iter().all(|report| report.has_quorum && report.group.resting), "{reports:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for (place, joined) in zones.iter().enumerate() {
        let began = Instant::now();
        create(&**joined.zone(), &format!("by {place}")).unwrap();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?} to wake for a change by {place}");
        assert!(zones.iter().all(|other| has(&**other.zone(), &format!("by {place}"))));
        agree(&zones.iter().collect::<Vec<_>>());
        await_rest(&three);
    }
    let after: Vec<u64> = zones.iter().map(|joined| joined.zone().group().status().term).collect();
    assert_eq!(terms, after, "nobody stood for leader");
    three.close();
}

#[test]
fn a_leader_that_dies_while_its_zones_rest_is_replaced() {
    let mut three = Three::new();
    await_rest(&three);
    let zones = three.first();
    let leader = zones.iter().position(leads).unwrap();
    let address = three.nodes[leader].listening().unwrap();
    let began = Instant::now();
    three.nodes[leader].close().unwrap();
    let others: Vec<_> = zones.iter().enumerate().filter(|(place, _)| *place != leader).map(|(_, one)| one).collect();
    create(&**others[0].zone(), "without it").unwrap();
    let took = began.elapsed();
    println!("the first change came {took:?} after its end, which takes two seconds, began");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // A zone of which a member lacks something does not rest.
    std::thread::sleep(Duration::from_secs(1));
    assert!(!others.iter().any(|joined| rests(joined)));
    three.nodes[leader] = three.machines[leader].node();
    three.nodes[leader].listen(address, Vec::new()).unwrap();
    three.nodes[leader].open();
    let back = three.named(leader, "zone 0");
    assert!(has(&**back.zone(), "without it"));
    create(&**back.zone(), "back").unwrap();
    await_rest(&three);
    agree(&three.first().iter().collect::<Vec<_>>());
    three.close();
}

#[test]
fn members_come_and_go_while_a_zone_rests() {
    let three = Three::new();
    await_rest(&three);
    let zones = three.first();
    let leader = zones.iter().position(leads).unwrap();
    let (to, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    three.nodes[leader].transfer(&zones[leader], zones[to].member()).unwrap();
    wait_until("the other leads", || leads(&zones[to]));
    await_rest(&three);
    three.nodes[leader].remove_member(&zones[leader], zones[gone].member()).unwrap();
    assert_eq!(zones[to].report().unwrap().members.len(), 2);
    create(&**zones[leader].zone(), "of two").unwrap();
    wait_until("the two rest", || rests(&zones[leader]) && rests(&zones[to]));
    three.close();
}
