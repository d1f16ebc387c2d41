//! The store that is away now and then.

use std::sync::Arc;

use tarn_store::{Loss, MemoryStore, Store, StoreError, UnreliableStore};

async fn outcomes(store: &UnreliableStore, calls: usize) -> Vec<bool> {
    let mut outcomes = Vec::new();
    for _ in 0..calls {
        let answer = store.fact_set("name", "value").await;
        assert!(matches!(answer, Ok(()) | Err(StoreError::Unavailable { .. })), "{answer:?}");
        outcomes.push(answer.is_ok());
    }
    outcomes
}

#[tokio::test]
async fn every_nth_call_fails() {
    let never = UnreliableStore::new(Arc::new(MemoryStore::new()), 0, Loss::Request);
    assert_eq!(outcomes(&never, 3).await, [true, true, true]);
    let third = UnreliableStore::new(Arc::new(MemoryStore::new()), 3, Loss::Request);
    assert_eq!(outcomes(&third, 6).await, [true, true, false, true, true, false]);
    assert_eq!(third.calls(), 6);
}

#[tokio::test]
async fn a_lost_request_does_nothing_and_a_lost_answer_everything() {
    for (loss, expected) in [(Loss::Request, None), (Loss::Answer, Some("value"))] {
        let memory = Arc::new(MemoryStore::new());
        let store = UnreliableStore::new(Arc::clone(&memory) as Arc<dyn Store>, 1, loss);
        assert_eq!(outcomes(&store, 1).await, [false]);
        let stored = memory.fact_fetch("name").await.expect("the model answers");
        assert_eq!(stored.as_deref(), expected, "{loss:?}");
    }
}
