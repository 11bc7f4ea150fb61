//! Tasks in the simulation: all on the host's one thread, in an order that the seed decides.

use crate::disk::Tempo;
use futures_util::future::BoxFuture;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tertulia::base::seams::Spawn;
use tokio::time::Sleep;

/// Blocking work runs at once; what wants a thread is a task that is as slow as the disk.
pub struct SimSpawn(pub Arc<Tempo>);

impl Spawn for SimSpawn {
    fn task(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn dedicated(&self, _: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(Slow { task, tempo: self.0.clone(), wait: None });
    }
}

/// The store's writer cannot wait in the midst of a commit without blocking its thread. So it
/// waits before each: what is submitted meanwhile goes into that commit, answers come later by as
/// much as the disk is slow.
struct Slow {
    task: BoxFuture<'static, ()>,
    tempo: Arc<Tempo>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Future for Slow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let slow = &mut *self;
        let tempo = slow.tempo.clone();
        let wait = slow.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(tempo.next())));
        if wait.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        slow.wait = None;
        slow.task.as_mut().poll(context)
    }
}
