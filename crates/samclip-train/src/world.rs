//! The processes of a data-parallel run: who this one is, and what they tell each other.
//!
//! Every process computes the gradients of its shards of a batch; their sum, all-reduced in f32 buckets, is the
//! gradient of the whole batch (spec 5.3), so that a run depends on the recipe's `shards` and not on the number
//! of processes, as long as there are not more of them. Without the feature `mpi` there is one process and nothing is sent.

use crate::error::TrainError;
use crate::parameters::Parameters;
use samclip_data::Part;
use std::time::{Duration, Instant};

/// Values of one all-reduce: 25 MiB, as torch's DistributedDataParallel takes.
#[cfg(feature = "mpi")]
const BUCKET: usize = 25 << 18;

/// Variables by which launchers say how many processes there are.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE", "SLURM_NTASKS"];

/// The processes of a run.
#[derive(Debug, Clone)]
pub struct World {
    rank: usize,
    size: usize,
    waited: Duration,
}

/// While it lives, the processes are connected; to be dropped when all is well ([`World::abort`] else).
#[derive(Default)]
pub struct Membership {
    #[cfg(feature = "mpi")]
    _universe: Option<mpi::environment::Universe>,
}

impl World {
    /// One process.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, waited: Duration::ZERO }
    }

    /// Joins the processes that `mpirun` or `srun --mpi=…` started, if they did.
    ///
    /// # Errors
    /// A launcher started several processes, but they cannot find each other: the binary has no MPI, or the
    /// launcher starts none. They would all write the same run directory.
    pub fn join() -> Result<(Self, Membership), TrainError> {
        let said = |name: &&str| std::env::var(name).ok()?.parse::<usize>().ok().filter(|&n| n > 1);
        let Some((name, expected)) = SIZES.iter().find_map(|name| Some((name, said(name)?))) else {
            return Ok((Self::alone(), Membership::default()));
        };
        // sbatch sets SLURM_NTASKS for its script too; only srun's tasks have a SLURM_PROCID each
        if *name == "SLURM_NTASKS" && std::env::var_os("SLURM_STEP_ID").is_none() {
            return Ok((Self::alone(), Membership::default()));
        }
        let (world, membership) = Self::connect()?;
        match world.size == expected {
            true => Ok((world, membership)),
            false => Err(TrainError::World(format!(
                "{name} says {expected} processes, but MPI connects {}; they would write the same run",
                world.size
            ))),
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn connect() -> Result<(Self, Membership), TrainError> {
        Err(TrainError::World("several processes were started, but this samclip was built without MPI".into()))
    }

    /// This process, from 0; the first one writes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this process writes the run directory and speaks.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Time spent in exchanges so far, waiting for slower processes included.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// This process's part of every batch, which is cut into `shards`, or into one for each process if there
    /// are more processes.
    pub(crate) fn part(&self, shards: usize) -> Result<Part, TrainError> {
        let (small, large) = (shards.min(self.size), shards.max(self.size));
        match large % small {
            0 => Ok(Part { rank: self.rank, ranks: self.size, shards: large }),
            _ => Err(TrainError::World(format!(
                "{} processes cannot share {shards} shards evenly; change one of them to a multiple of the other",
                self.size
            ))),
        }
    }

    /// The sum over all processes, in place.
    pub fn sum(&mut self, values: &mut [f32]) {
        if self.size > 1 {
            let begin = Instant::now();
            self.all_reduce(values);
            self.waited += begin.elapsed();
        }
    }

    /// Whether it is so for any process.
    pub fn any(&mut self, here: bool) -> bool {
        let mut sum = [f32::from(u8::from(here))];
        self.sum(&mut sum);
        sum[0] > 0.0
    }

    /// What every process says, in their order.
    pub fn gather(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if self.size == 1 {
            return vec![bytes];
        }
        let begin = Instant::now();
        let all = self.all_gather(&bytes);
        self.waited += begin.elapsed();
        all
    }

    /// Sums the gradients of all processes. A tensor without a gradient anywhere keeps none.
    pub(crate) fn sum_gradients(&mut self, parameters: &mut Parameters) {
        if self.size == 1 {
            return;
        }
        let mut present: Vec<f32> =
            parameters.tensors().iter().map(|t| f32::from(u8::from(!t.grad.is_empty()))).collect();
        self.sum(&mut present);
        let mut all = Vec::new();
        for (tensor, _) in parameters.tensors_mut().iter_mut().zip(&present).filter(|(_, n)| **n > 0.0) {
            tensor.grad.resize(tensor.value.len(), 0.0);
            all.extend_from_slice(&tensor.grad);
        }
        self.sum(&mut all);
        let mut rest = all.as_slice();
        for (tensor, _) in parameters.tensors_mut().iter_mut().zip(&present).filter(|(_, n)| **n > 0.0) {
            let (own, after) = rest.split_at(tensor.value.len());
            tensor.grad.copy_from_slice(own);
            rest = after;
        }
    }
}

#[cfg(not(feature = "mpi"))]
impl World {
    fn all_reduce(&self, _: &mut [f32]) {}

    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        vec![bytes.to_vec()]
    }

    /// Ends this process, and with it all others.
    pub fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }
}

#[cfg(feature = "mpi")]
mod connected {
    use super::{BUCKET, Membership, World};
    use crate::error::TrainError;
    use mpi::collective::SystemOperation;
    use mpi::datatype::PartitionMut;
    use mpi::topology::SimpleCommunicator;
    use mpi::traits::{Communicator, CommunicatorCollectives};

    impl World {
        pub(super) fn connect() -> Result<(Self, Membership), TrainError> {
            // only the thread of the training loop speaks
            let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Funneled)
                .ok_or_else(|| TrainError::World("MPI does not start, or was started before".into()))?;
            let world = universe.world();
            let (rank, size) = (world.rank() as usize, world.size() as usize);
            Ok((Self { rank, size, ..Self::alone() }, Membership { _universe: Some(universe) }))
        }

        pub(super) fn all_reduce(&self, values: &mut [f32]) {
            let mut sum = vec![0.0; values.len().min(BUCKET)];
            for bucket in values.chunks_mut(BUCKET) {
                let sum = &mut sum[..bucket.len()];
                SimpleCommunicator::world().all_reduce_into(&*bucket, sum, SystemOperation::sum());
                bucket.copy_from_slice(sum);
            }
        }

        pub(super) fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
            let mut counts = vec![0_i32; self.size];
            SimpleCommunicator::world().all_gather_into(&(bytes.len() as i32), &mut counts[..]);
            let starts: Vec<i32> = counts.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
            let mut all = vec![0; counts.iter().sum::<i32>() as usize];
            let mut parts = PartitionMut::new(&mut all[..], counts.clone(), &starts[..]);
            SimpleCommunicator::world().all_gather_varcount_into(bytes, &mut parts);
            let part = |(&start, &n): (&i32, &i32)| all[start as usize..][..n as usize].to_vec();
            starts.iter().zip(&counts).map(part).collect()
        }

        /// Ends this process, and with it all others.
        pub fn abort(&self, code: i32) -> ! {
            match self.size {
                1 => std::process::exit(code),
                _ => SimpleCommunicator::world().abort(code),
            }
        }
    }
}
