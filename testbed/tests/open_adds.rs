//! ADDs that are open while the agent ends and starts again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::stranger::Stranger;

const LIMIT: Duration = Duration::from_secs(40);
const SOON: Duration = Duration::from_secs(10);

fn families() -> [(Families, &'static str); 2] {
    [(Families::V4, "any"), (Families::Dual, "none")]
}

/// The agent dies at a point of an ADD, and a neighbour takes all addresses but one before the next
/// agent starts. The address is not used.
#[test]
fn an_address_that_a_neighbour_takes_while_no_agent_runs_is_used_by_no_add_that_waits() {
    let Some(options) = Options::of_tests(1.0) else { return };
    for (families, rung) in families() {
        let options = Options { rung: Some(rung.to_owned()), ..options.clone() };
        for (point, has_grant) in
            [("agent.lease.journaled", false), ("agent.lease.stored", false), ("agent.bind.journaled", true)]
        {
            let mut lab = Lab::prepare(&options, 4, "", families).unwrap();
            lab.start_agent(Some(point)).unwrap();
            let stranger = Stranger::join(&lab.world).unwrap();
            let pod = lab.world.pod().unwrap();
            let add = lab.plugin.start(&lab.call("ADD", &pod)).unwrap();
            assert!(lab.agent().unwrap().wait_end(SOON).unwrap(), "{point} is not passed");
            let taken: Vec<IpAddr> = lab.addresses.iter().take(3).copied().map(IpAddr::V4).collect();
            for address in &taken {
                stranger.take(*address).unwrap();
            }
            lab.start_agent(None).unwrap();
            let outcome = add.finish(LIMIT).unwrap();
            let story = format!("{point}, {families:?}: {outcome:?}");
            if let Ok(added) = outcome.added() {
                assert!(!added.addresses.iter().any(|one| taken.contains(one)), "{story}");
            } else {
                // Its plugin got the address, and gives it back.
                let failure = outcome.failure().unwrap();
                assert!(has_grant && failure.code == 11, "{story}");
                assert!(failure.msg.contains(&stranger.mac().to_string()), "{story}");
            }
            let used = lab.world.addresses(&pod).unwrap();
            assert!(!used.iter().any(|one| taken.contains(one)), "{story}: {used:?}");
            lab.detach(&pod).unwrap().expect_success().unwrap();
            let end = Instant::now() + SOON;
            let holds = |lab: &Lab| lab.leases().unwrap().iter().any(|row| row.container_id.is_some());
            while holds(&lab) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(!holds(&lab), "{story}");
        }
    }
}
