//! Answers what one VMM asks for of one content. It may ask for anything: for what it was handed the keys of, it gets the copy; one
//! question at a time, so that it holds up nobody but itself.

use std::sync::Arc;

use chunk_store::{Answer, MAX_ASK_LEN, decode_ask};

use super::content::Content;
use crate::{
    code::blocking,
    sandbox::{describe, packet::PacketSocket},
};

/// Until the other end is closed.
pub(super) async fn serve(content: Arc<Content>, socket: PacketSocket) {
    let mut question = [0; MAX_ASK_LEN + 1];
    while let Ok((len, _fds)) = socket.receive(&mut question).await {
        let Some(index) = question.get(..len).filter(|packet| !packet.is_empty()).and_then(decode_ask) else {
            // The end, or somebody who does not speak this.
            return;
        };
        let asked = Arc::clone(&content);
        let answer = blocking(move || answer(&asked, index)).await;
        if socket.send(&answer, &[]).await.is_err() {
            return;
        }
    }
}

fn answer(content: &Content, index: u32) -> Vec<u8> {
    match content.read(index) {
        Ok(Some(found)) => Answer::Copy { tag: found.tag, copy: &found.copy }.encode(),
        Ok(None) => Answer::Failed("there is no such chunk").encode(),
        Err(error) => {
            let reason = describe(&error);
            tracing::warn!(?content, index, "a chunk cannot be had: {reason}");
            Answer::Failed(&reason).encode()
        }
    }
}
