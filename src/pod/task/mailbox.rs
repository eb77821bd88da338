//! The messages to one Pod's task.
//!
//! A channel of tokio's keeps room for 32 messages, over a kilobyte for each Pod of the node, where a task has
//! rarely more than one. What is sent here is kept in a queue that has no room while it is empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Message;

/// Returns both ends of a new mailbox.
#[must_use]
pub fn mailbox() -> (MessageSender, Inbox) {
    let mailbox = Arc::new(Mailbox::default());
    (MessageSender(Arc::clone(&mailbox)), Inbox(mailbox))
}

/// The end of those who have something to tell to a Pod's task.
#[derive(Debug)]
pub struct MessageSender(Arc<Mailbox>);

/// The end of the task.
#[derive(Debug)]
pub struct Inbox(Arc<Mailbox>);

#[derive(Debug, Default)]
struct Mailbox {
    queue: Mutex<MessageQueue>,
    /// Notified when a message has come, and when no more can.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct MessageQueue {
    messages: VecDeque<Message>,
    /// One of the ends is gone.
    is_closed: bool,
}

impl MessageQueue {
    /// Takes the oldest message. An empty queue has no room for any.
    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front();
        if self.messages.is_empty() {
            self.messages.shrink_to_fit();
        }
        message
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, MessageQueue> {
        // Each change leaves the queue whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MessageSender {
    /// Sends a message. Returns false if the task is gone.
    #[must_use]
    pub fn send(&self, message: Message) -> bool {
        let mut queue = self.0.lock();
        if queue.is_closed {
            return false;
        }
        queue.messages.push_back(message);
        drop(queue);
        self.0.arrived.notify_one();
        true
    }

    /// Returns true if the task is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }
}

impl Drop for MessageSender {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.arrived.notify_one();
    }
}

impl Inbox {
    /// Returns the oldest message, if there is one.
    pub fn try_recv(&mut self) -> Option<Message> {
        self.0.lock().pop()
    }

    /// Waits for a message. Returns `None` if there is none and no more can come. Nothing is lost where the wait is
    /// dropped.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            {
                let mut queue = self.0.lock();
                let message = queue.pop();
                if message.is_some() || queue.is_closed {
                    return message;
                }
            }
            self.0.arrived.notified().await;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        // Those that wait for a reply learn that none comes.
        queue.messages.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn changed(id: &str) -> Message {
        Message::Changed(id.to_owned())
    }

    fn id(message: Option<Message>) -> String {
        match message {
            Some(Message::Changed(id)) => id,
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn messages_arrive_in_their_order_and_wake_the_task() {
        let (sender, mut inbox) = mailbox();
        assert!(inbox.recv().now_or_never().is_none());
        assert!(sender.send(changed("a")) && sender.send(changed("b")));
        assert_eq!(id(inbox.recv().await), "a");
        assert_eq!(id(inbox.try_recv()), "b");
        assert!(inbox.try_recv().is_none());
        // A wait that has been woken and is dropped takes nothing with it.
        let mut waits = Box::pin(inbox.recv());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(sender.send(changed("d")));
        drop(waits);
        assert_eq!(id(inbox.recv().now_or_never().flatten()), "d");
        let waits = tokio::spawn(async move { inbox.recv().await });
        tokio::task::yield_now().await;
        assert!(sender.send(changed("c")));
        assert_eq!(id(waits.await.unwrap()), "c");
    }

    #[tokio::test]
    async fn the_task_gets_all_that_was_sent_and_then_learns_that_no_more_comes() {
        let (sender, mut inbox) = mailbox();
        assert!(sender.send(changed("a")));
        drop(sender);
        assert_eq!(id(inbox.recv().await), "a");
        assert!(inbox.recv().await.is_none());
        let (sender, mut inbox) = mailbox();
        let waits = tokio::spawn(async move { inbox.recv().await.is_none() });
        tokio::task::yield_now().await;
        drop(sender);
        assert!(waits.await.unwrap());
    }

    #[tokio::test]
    async fn a_sender_learns_that_the_task_is_gone_and_its_messages_with_it() {
        let (sender, inbox) = mailbox();
        let (reply, replied) = tokio::sync::oneshot::channel();
        let container = None;
        let request = crate::pod::task::RestartRequest { container, reply };
        assert!(sender.send(Message::Restart(request)) && !sender.is_closed());
        drop(inbox);
        assert!(sender.is_closed() && !sender.send(changed("a")));
        assert!(replied.await.is_err());
    }
}
