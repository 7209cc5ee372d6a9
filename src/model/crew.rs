//! The replicas of a training, each on a thread of its own, doing the same thing at the same time.
//!
//! The first one is on the training's own thread, so that a training on one device starts no other. What they do is cut
//! into parts that end together: between two of them nobody is at work, and if one fails nobody goes on.

use super::net::HashModel;
use super::replica::Replica;
use super::step_on;
use crate::device::bind;
use crate::error::{Error, Kind, Result};
use candle_core::{Device, DeviceLocation};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// At least one replica.
pub(super) struct Crew {
    first: Replica,
    others: Vec<Worker>,
}

type Job = Box<dyn FnOnce(&mut Replica) + Send>;

/// A replica on another thread, which ends when the other end of `jobs` is gone.
struct Worker {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    device: Device,
}

impl Worker {
    fn start(mut replica: Replica, number: usize) -> Result<Self> {
        let (jobs, next) = channel::<Job>();
        let device = replica.device.clone();
        let work = move || next.iter().for_each(|job| job(&mut replica));
        let thread = std::thread::Builder::new().name(format!("replica-{}", number + 1)).spawn(work);
        let thread = thread.map_err(|e| Error::new(Kind::Stage, format!("cannot start a thread: {e}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), device })
    }

    /// Has something done there; nothing will be received if it panics.
    fn ask<T: Send + 'static>(&self, work: impl FnOnce(&mut Replica) -> T + Send + 'static) -> Receiver<T> {
        let (answer, result) = channel();
        let job: Job = Box::new(move |replica| drop(answer.send(work(replica))));
        if let Some(jobs) = &self.jobs {
            // A thread that is gone drops the job, and with it the other end of `result`.
            let _ = jobs.send(job);
        }
        result
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // That it panicked was told when nothing came.
            let _ = thread.join();
        }
    }
}

impl Crew {
    /// The first replica stays on this thread.
    pub(super) fn new(first: Replica, others: Vec<Replica>) -> Result<Self> {
        let others = others.into_iter().zip(1..).map(|(replica, number)| Worker::start(replica, number));
        Ok(Self { first, others: others.collect::<Result<_>>()? })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// The replica on this thread. All have the same weights.
    pub(super) fn first(&self) -> &Replica {
        &self.first
    }

    /// The network of the replica on this thread; the others are gone.
    pub(super) fn into_model(self) -> HashModel {
        self.first.model
    }

    /// Does the same with all replicas at once, each with its own argument, and returns what came of it, in the order of
    /// the replicas. There are as many arguments as replicas.
    ///
    /// # Errors
    /// Those of the first one that failed, and which one that was. All have ended then.
    pub(super) fn each<A, T>(
        &mut self,
        arguments: Vec<A>,
        work: impl Fn(&mut Replica, A) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Vec<T>>
    where
        A: Send + 'static,
        T: Send + 'static,
    {
        let count = self.len();
        if arguments.len() != count {
            anyhow::bail!("{} arguments for {count} replicas", arguments.len());
        }
        let mut arguments = arguments.into_iter();
        let own = arguments.next();
        let work = Arc::new(work);
        let answers: Vec<Receiver<anyhow::Result<T>>> = (self.others.iter().zip(arguments))
            .map(|(worker, argument)| {
                let work = Arc::clone(&work);
                worker.ask(move |replica| {
                    bind(&replica.device)?;
                    work(replica, argument)
                })
            })
            .collect();
        let (device, first) = (self.first.device.clone(), &mut self.first);
        let own = own.map(|argument| {
            bind(&device)?;
            step_on(&device, || work(first, argument))
        });
        let others = answers.iter().map(|answer| {
            let gone = || Error::new(Kind::Stage, "a thread of the training panicked").hint("its log tells more");
            answer.recv().unwrap_or_else(|_| Err(gone().into()))
        });
        // All of them are waited for before any error goes on.
        let ended: Vec<anyhow::Result<T>> = own.into_iter().chain(others).collect();
        let devices = [&self.first.device].into_iter().chain(self.others.iter().map(|worker| &worker.device));
        let named = ended.into_iter().zip(devices).enumerate().map(|(number, (ended, device))| match ended {
            Err(error) if count > 1 => Err(of_replica(error, number, count, device).into()),
            ended => ended,
        });
        named.collect()
    }
}

/// An error with the replica that it came from.
fn of_replica(error: anyhow::Error, number: usize, count: usize, device: &Device) -> Error {
    let place = match device.location() {
        DeviceLocation::Cpu => "the CPU".into(),
        DeviceLocation::Cuda { gpu_id } => format!("GPU {gpu_id} of those that the task was given"),
        DeviceLocation::Metal { gpu_id } => format!("Metal device {gpu_id}"),
    };
    let error = error.downcast::<Error>().unwrap_or_else(|error| match error.downcast::<candle_core::Error>() {
        Ok(error) => super::tensor_error(error),
        Err(error) => Error::new(Kind::Stage, error.to_string()),
    });
    error.note(format!("on device {} of {count}: {place}", number + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::backbone::{BackboneSpec, small::Small};

    fn crew(count: usize) -> Crew {
        let replica = || {
            let spec = BackboneSpec::Small(Small { channels: vec![4], width: 8, dropout: 0.0 });
            let model = HashModel::seeded(&spec, 6, 16, 1, &Device::Cpu).unwrap();
            let optimizer = serde_json::from_str::<crate::model::optim::OptimizerSpec>(r#"{"name": "sgd", "lr": 1}"#);
            let optimizer = optimizer.unwrap().builder().build(model.parameters()).unwrap();
            Replica { model, optimizer, device: Device::Cpu }
        };
        Crew::new(replica(), (1..count).map(|_| replica()).collect()).unwrap()
    }

    #[test]
    fn all_work_at_once_and_answers_come_in_order() {
        let mut crew = crew(4);
        // Nobody gets past this alone.
        let (barrier, training) = (Arc::new(std::sync::Barrier::new(4)), std::thread::current().id());
        let seen = crew.each(vec![1, 2, 3, 4], move |replica, number| {
            barrier.wait();
            Ok((number * replica.model.bits(), std::thread::current().id() == training))
        });
        assert_eq!(seen.unwrap(), [(6, true), (12, false), (18, false), (24, false)]);
        assert!(crew.each(vec![0; 3], |_, _| Ok(())).is_err());
    }

    #[test]
    fn a_replica_that_fails_is_named_and_the_others_have_ended() {
        let mut crew = crew(3);
        let ended = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = Arc::clone(&ended);
        let failed = crew.each(vec![0, 1, 2], move |_, number| {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            if number == 0 { Ok(()) } else { Err(candle_core::Error::msg(format!("out of memory {number}")).into()) }
        });
        let error = failed.unwrap_err().downcast::<Error>().unwrap().render("error");
        assert!(error.contains("out of memory 1") && error.contains("on device 2 of 3: the CPU"), "{error}");
        assert_eq!(ended.load(std::sync::atomic::Ordering::SeqCst), 3);
        assert!(crew.each(vec![(); 3], |_, ()| Ok(())).is_ok(), "they can go on");

        let panicked = crew.each(vec![0, 1, 2], |_, number| {
            assert_ne!(number, 2, "a fault of the program");
            Ok(())
        });
        let error = panicked.unwrap_err().downcast::<Error>().unwrap().render("error");
        assert!(error.contains("panicked") && error.contains("on device 3 of 3"), "{error}");
        assert!(crew.each(vec![(); 3], |_, ()| Ok(())).is_err(), "one of them is gone");
    }
}
