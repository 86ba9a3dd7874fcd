//! One seed of the random run, with its last steps in the error.

use super::{Tally, World, seeds};

const OPS: u64 = 150;

pub(crate) fn run_seed(seed: u64) -> Result<Tally, String> {
    run_world(World::new(seed))
}

pub(crate) fn run_world(mut world: World) -> Result<Tally, String> {
    let result = world.run(OPS);
    if seeds::from_env("ESKER_SEED").is_some() {
        for line in &world.story {
            eprintln!("{line}");
        }
    }
    match result {
        Ok(()) => Ok(world.tally),
        Err(e) => {
            let from = world.story.len().saturating_sub(25);
            let story = world.story[from..].join("\n  ");
            Err(format!("{e}\nits last steps:\n  {story}"))
        }
    }
}
