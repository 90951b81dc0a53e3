//! Transactions with many branches. The participants are in this process and force nothing: the subject is what
//! a branch costs the coordinator.

use crate::bench::closed_loop;
use crate::bench::scale::crowd::{Crowd, Manner};
use crate::bench::scale::{Scale, Stage, answered, usual};
use crate::bench::system::{System, Usage};
use crate::bench::target::Moment;
use crate::options::CallMode;

const CALLERS: usize = 16;
/// From one number of branches to the next.
const FACTOR: usize = 4;

/// Measures 2, 8, 32 and so on, up to so many.
///
/// # Errors
/// A sentence, when transactions fail.
pub async fn run(most: u32, system: &mut System, stage: &Stage<'_>) -> Result<Scale, String> {
    let mut scale = Scale::new("branches");
    stage.says("registering");
    let crowd = Crowd::start(most as usize, Manner::Prompt).await?;
    crowd.join(system).await?;
    let mut counts: Vec<usize> = std::iter::successors(Some(2), |count| Some(count * FACTOR))
        .take_while(|count| *count < most as usize)
        .collect();
    counts.push(most as usize);
    let mut columns: [Vec<f64>; 5] = Default::default();
    for count in &counts {
        stage.says(&format!("{count} branches"));
        let target = usual(system.client(CallMode::Stream)?, &crowd.names()[..*count]);
        let mut used = [Usage::default(); 2];
        let observe = async |moment| used[usize::from(moment == Moment::End)] = system.usage();
        let tally = closed_loop::run(&target, CALLERS, stage.window, observe).await;
        let rate = answered(&tally)?;
        let branches = (tally.committed as usize * count).max(1) as f64;
        let coordinator = used[1].since(used[0]).coordinator;
        let numbers = [
            rate,
            rate * *count as f64,
            tally.percentile_ms(50.0),
            tally.percentile_ms(99.0),
            coordinator.as_secs_f64() * 1e6 / branches,
        ];
        columns.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
    }
    scale.note_series("branches", counts.iter().map(|count| *count as f64).collect());
    let [transactions, branches, p50, p99, cpu] = columns;
    scale.note_series("transactions_per_second", transactions);
    scale.note_series("branches_per_second", branches);
    scale.note_series("p50_ms", p50);
    scale.note_series("p99_ms", p99);
    scale.note_series("coordinator_cpu_us_per_branch", cpu);
    Ok(scale)
}
