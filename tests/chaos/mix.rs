//! Any actor, any method, at random, during the whole lives of twenty tasks.

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::control::{Fault, SINGLETONS};
use crate::field::Field;
use crate::lives;

/// The seed of an ordinary run; other ones find other things.
const SEED: u64 = 20_260_101;

/// xorshift64*: enough to choose victims, and the same on every machine.
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 11) % n.max(1)
    }

    fn one_of<'a>(&mut self, names: &'a [String]) -> Option<&'a String> {
        let at = self.below(names.len() as u64);
        names.get(usize::try_from(at).unwrap_or_default())
    }
}

pub fn seed() -> u64 {
    match env::var("CHAOS_SEED").as_deref() {
        Ok("now") => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(SEED, |d| u64::try_from(d.as_nanos()).unwrap_or(SEED)),
        Ok(text) => text.parse().expect("CHAOS_SEED is a number or `now`"),
        Err(_) => SEED,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tasks_live_through_random_faults_of_all_actors() {
    let seed = seed();
    println!("CHAOS_SEED={seed}");
    let field = Field::new().await;
    let (mut dice, mut told) = (Dice::of(seed), Vec::new());
    let faults = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50 + dice.below(100))).await;
            let fault = match dice.below(5) {
                0 | 1 => Fault::Kill,
                2 | 3 => Fault::Abort,
                _ => Fault::Stall(100 + dice.below(1400)),
            };
            let all = field.chaos.list().await.unwrap_or_default();
            let (singles, tasks): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|name| SINGLETONS.contains(&name.as_str()));
            // Each of twenty tasks as often as any other, also when few are left.
            let slot = usize::try_from(dice.below(2 * lives::TASKS as u64)).unwrap_or_default();
            if let Some(victim) = tasks.get(slot).or_else(|| dice.one_of(&singles)) {
                field.chaos.inject(victim, fault).await.ok();
                told.push(format!("{fault} {victim}"));
            }
        }
    };
    let failures = tokio::select! {
        failures = lives::twenty(&field.rig, &field.image) => failures,
        () = faults => unreachable!("faults go on as long as the tasks"),
    };
    println!("{} faults", told.len());
    assert!(
        failures.is_empty(),
        "seed {seed}: {failures:#?}\n{told:#?}\n{}",
        field.last_words()
    );
    let settled = async {
        field.settled().await?;
        field.no_thread_more().await
    };
    if let Err(e) = settled.await {
        panic!("seed {seed}: {e:#}\n{told:#?}\n{}", field.last_words());
    }
}
