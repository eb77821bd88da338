//! Entries of the runtime's lists, decoded no further than a comparison with the list before needs: a list has
//! kilobytes of labels and annotations for each Pod, and mostly says nothing new.
//!
//! The messages here have the field numbers of `proto/cri_v1.proto`, and fewer fields.

use std::marker::PhantomData;

use prost::bytes::Bytes;
use prost::{DecodeError, Message};
use tonic::{Code, Status};

use super::error::Error;
use super::v1;

/// An answer that is a list, with its entries as they came.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncodedList {
    /// Slices of the answer, without copies.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    entries: Vec<Bytes>,
}

/// ID and state of a sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxHead {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "3")]
    state: i32,
}

/// ID and state of a container.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerHead {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "6")]
    state: i32,
}

/// A message of which the runtime has lists.
pub trait Listable: Message + Default {
    /// Its ID and state alone.
    type Head: Message + Default + Into<(String, i32)>;
    /// The request of a list.
    type Request: Message + 'static;
    /// The method that lists it.
    const METHOD: &'static str;
    /// The path of that method.
    const PATH: &'static str;
}

impl Listable for v1::PodSandbox {
    type Head = SandboxHead;
    type Request = v1::ListPodSandboxRequest;
    const METHOD: &'static str = "ListPodSandbox";
    const PATH: &'static str = "/runtime.v1.RuntimeService/ListPodSandbox";
}

impl Listable for v1::Container {
    type Head = ContainerHead;
    type Request = v1::ListContainersRequest;
    const METHOD: &'static str = "ListContainers";
    const PATH: &'static str = "/runtime.v1.RuntimeService/ListContainers";
}

impl From<SandboxHead> for (String, i32) {
    fn from(head: SandboxHead) -> Self {
        (head.id, head.state)
    }
}

impl From<ContainerHead> for (String, i32) {
    fn from(head: ContainerHead) -> Self {
        (head.id, head.state)
    }
}

/// Entry of a list. It holds on to the memory of the whole answer.
#[derive(Debug, Clone)]
pub struct ListEntry<T> {
    /// The runtime's ID, unchecked.
    pub id: String,
    /// The number of its state.
    pub state: i32,
    encoded: Bytes,
    message: PhantomData<T>,
}

impl<T: Listable> ListEntry<T> {
    /// Reads the ID and state of an encoded message.
    fn new(encoded: Bytes) -> Result<Self, DecodeError> {
        let (id, state) = T::Head::decode(encoded.clone())?.into();
        Ok(Self {
            id,
            state,
            encoded,
            message: PhantomData,
        })
    }

    /// Decodes the whole message.
    ///
    /// # Errors
    /// The bytes are no such message, which counts as a failure of the list.
    pub fn decode(&self) -> Result<T, Error> {
        let decoded = T::decode(self.encoded.clone());
        decoded.map_err(|error| Error::Failed {
            method: T::METHOD,
            code: Code::Internal,
            message: error.to_string(),
        })
    }
}

#[cfg(test)]
impl<T: Listable> From<&T> for ListEntry<T> {
    fn from(message: &T) -> Self {
        Self::new(message.encode_to_vec().into()).unwrap()
    }
}

impl EncodedList {
    /// Reads the ID and state of every entry.
    ///
    /// # Errors
    /// An entry is no such message: the status of an answer that cannot be decoded.
    pub(super) fn into_entries<T: Listable>(self) -> Result<Vec<ListEntry<T>>, Status> {
        let entries = self.entries.into_iter().map(ListEntry::new);
        let entries: Result<_, _> = entries.collect();
        entries.map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    fn sandboxes() -> Vec<v1::PodSandbox> {
        let sandbox = |n: i32| v1::PodSandbox {
            id: format!("sandbox{n}"),
            metadata: Some(v1::PodSandboxMetadata {
                name: text("web"),
                uid: text("uid"),
                namespace: text("default"),
                attempt: 3,
            }),
            state: n,
            created_at: 5,
            labels: [(text("a"), text("b"))].into(),
            annotations: [(text("c"), text("d"))].into(),
            runtime_handler: text("runc"),
        };
        // The last one has a state that no version of the contract has.
        [0, 1, -7].map(sandbox).to_vec()
    }

    fn containers() -> Vec<v1::Container> {
        let container = |n: i32| v1::Container {
            id: format!("container{n}"),
            pod_sandbox_id: text("sandbox"),
            metadata: Some(v1::ContainerMetadata {
                name: text("c"),
                attempt: 3,
            }),
            image: Some(v1::ImageSpec {
                image: text("image"),
                ..v1::ImageSpec::default()
            }),
            image_ref: text("ref"),
            state: n,
            created_at: 5,
            labels: [(text("a"), text("b"))].into(),
            annotations: [(text("c"), text("d"))].into(),
            image_id: text("id"),
        };
        [0, 1, 2, 3, 99].map(container).to_vec()
    }

    fn entries<T: Listable>(answer: &impl Message) -> Result<Vec<ListEntry<T>>, Status> {
        let list = EncodedList::decode(answer.encode_to_vec().as_slice()).unwrap();
        list.into_entries()
    }

    #[test]
    fn a_list_read_in_part_has_what_the_whole_one_has() {
        let items = sandboxes();
        let answer = v1::ListPodSandboxResponse {
            items: items.clone(),
        };
        let found = entries::<v1::PodSandbox>(&answer).unwrap();
        assert_eq!(found.len(), items.len());
        for (entry, item) in found.iter().zip(&items) {
            assert_eq!((&entry.id, entry.state), (&item.id, item.state));
            assert_eq!(&entry.decode().unwrap(), item);
        }
        let containers = containers();
        let answer = v1::ListContainersResponse {
            containers: containers.clone(),
        };
        let found = entries::<v1::Container>(&answer).unwrap();
        assert_eq!(found.len(), containers.len());
        for (entry, container) in found.iter().zip(&containers) {
            assert_eq!((&entry.id, entry.state), (&container.id, container.state));
            assert_eq!(&entry.decode().unwrap(), container);
        }
    }

    #[test]
    fn an_entry_that_is_no_message_is_an_error() {
        let list = |entry: &[u8]| EncodedList {
            entries: vec![Bytes::copy_from_slice(entry)],
        };
        // Cut off, an ID that is no text, a state that is a text, an unknown wire type.
        for entry in [&b"\x0a\x05ab"[..], b"\x0a\x01\xff", b"\x32\x00", b"\x0f"] {
            let status = list(entry).into_entries::<v1::Container>().unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{entry:?}");
        }
        // What is wrong in the rest is found once it is read.
        let rest = list(b"\x0a\x01a\x2a\x01\xff").into_entries::<v1::Container>();
        let rest = rest.unwrap();
        assert_eq!(rest[0].id, "a");
        assert!(rest[0].decode().is_err());
        let empty = list(b"").into_entries::<v1::PodSandbox>().unwrap();
        assert_eq!((empty[0].id.as_str(), empty[0].state), ("", 0));
    }
}
