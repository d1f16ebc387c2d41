//! Lists: order, pages in both directions, the archive.

use std::sync::Arc;

use tarn_types::{Lasting, SandboxRecord, SandboxStatus};

use super::{
    Case,
    sample::{T0, advance, insert, insert_ended, project, query, record, running, update},
};
use crate::{ListQuery, Order, Page, PageKey, Store};

pub(super) const CASES: &[Case] = &[
    Case::new("an empty list has no neighbours", |s| Box::pin(empty(s))),
    Case::new("a list is newest first, ties by id", |s| Box::pin(order(s))),
    Case::new("pages forward cover everything once", |s| Box::pin(forward(s))),
    Case::new("pages backward cover everything once", |s| Box::pin(backward(s))),
    Case::new("backward undoes forward, page by page", |s| Box::pin(there_and_back(s))),
    Case::new("a key need not exist any more", |s| Box::pin(key_of_nothing(s))),
    Case::new("a full last page knows that it is the last", |s| Box::pin(exact_last_page(s))),
    Case::new("a list shows one project only", |s| Box::pin(one_project(s))),
    Case::new("a list can be of one status", |s| Box::pin(by_status(s))),
    Case::new("the archive begins at its bound", |s| Box::pin(archive(s))),
    Case::new("pages of the archive", |s| Box::pin(archive_pages(s))),
];

/// Inserts twelve sandboxes in four groups of three that share a `created_at`, ids shuffled, and
/// returns them newest first.
async fn twelve(store: &Arc<dyn Store>) -> Vec<SandboxRecord> {
    let mut records = Vec::new();
    for number in [7, 2, 11, 0, 9, 4, 1, 8, 3, 10, 5, 6] {
        let mut record = record(number);
        record.created_at = T0.plus_secs(u64::from(number % 4));
        insert(store, &record).await.expect("a fresh sandbox is inserted");
        records.push(record);
    }
    records.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
    records
}

fn key_of(record: &SandboxRecord) -> Option<PageKey> {
    Some(PageKey { created_at: record.created_at, id: record.id.clone() })
}

async fn list(store: &Arc<dyn Store>, query: &ListQuery) -> Page {
    let page = store.sandbox_list(query).await.expect("a page");
    assert!(page.items.len() <= query.limit, "{} of {}", page.items.len(), query.limit);
    page
}

async fn empty(store: Arc<dyn Store>) {
    let nothing = Page { items: vec![], has_newer: false, has_older: false };
    for order in [Order::Forward, Order::Backward] {
        for from in [None, key_of(&record(1))] {
            let query = ListQuery { order, from, ..query(10) };
            assert_eq!(list(&store, &query).await, nothing);
        }
    }
}

async fn order(store: Arc<dyn Store>) {
    let all = twelve(&store).await;
    for order in [Order::Forward, Order::Backward] {
        let page = list(&store, &ListQuery { order, ..query(100) }).await;
        assert_eq!(page, Page { items: all.clone(), has_newer: false, has_older: false });
    }
}

async fn forward(store: Arc<dyn Store>) {
    let all = twelve(&store).await;
    for limit in [1, 2, 5, 11, 12, 13] {
        let mut seen = Vec::new();
        let mut query = query(limit);
        loop {
            let page = list(&store, &query).await;
            assert_eq!(page.has_newer, !seen.is_empty(), "limit {limit} after {}", seen.len());
            seen.extend(page.items);
            assert_eq!(page.has_older, seen.len() < all.len(), "limit {limit}, {}", seen.len());
            if !page.has_older {
                break;
            }
            query.from = seen.last().and_then(key_of);
        }
        assert_eq!(seen, all, "limit {limit}");
    }
}

async fn backward(store: Arc<dyn Store>) {
    let all = twelve(&store).await;
    for limit in [1, 2, 5, 11, 12, 13] {
        let mut seen = Vec::new();
        let mut query = ListQuery { order: Order::Backward, ..query(limit) };
        loop {
            let page = list(&store, &query).await;
            assert_eq!(page.has_older, !seen.is_empty(), "limit {limit} after {}", seen.len());
            seen.splice(0..0, page.items);
            assert_eq!(page.has_newer, seen.len() < all.len(), "limit {limit}, {}", seen.len());
            if !page.has_newer {
                break;
            }
            query.from = seen.first().and_then(key_of);
        }
        assert_eq!(seen, all, "limit {limit}");
    }
}

async fn there_and_back(store: Arc<dyn Store>) {
    twelve(&store).await;
    let first = list(&store, &query(5)).await;
    let from = first.items.last().and_then(key_of);
    let second = list(&store, &ListQuery { from, ..query(5) }).await;
    let from = second.items.first().and_then(key_of);
    let back = list(&store, &ListQuery { from, order: Order::Backward, ..query(5) }).await;
    assert_eq!(back, first);
}

async fn key_of_nothing(store: Arc<dyn Store>) {
    let all = twelve(&store).await;
    // Between the two middle groups there is no sandbox; beyond either end there is none either.
    let mut between = record(200);
    between.created_at = T0.plus_millis(1500);
    let from = key_of(&between);
    let older = list(&store, &ListQuery { from: from.clone(), ..query(100) }).await;
    assert_eq!(older, Page { items: all[6..].to_vec(), has_newer: true, has_older: false });
    let query_back = ListQuery { from, order: Order::Backward, ..query(100) };
    let newer = list(&store, &query_back).await;
    assert_eq!(newer, Page { items: all[..6].to_vec(), has_newer: false, has_older: true });

    let oldest = ListQuery { from: key_of(&all[11]), ..query(5) };
    let beyond = list(&store, &oldest).await;
    assert_eq!(beyond, Page { items: vec![], has_newer: true, has_older: false });
    let newest = ListQuery { from: key_of(&all[0]), order: Order::Backward, ..query(5) };
    let beyond = list(&store, &newest).await;
    assert_eq!(beyond, Page { items: vec![], has_newer: false, has_older: true });
}

async fn exact_last_page(store: Arc<dyn Store>) {
    let all = twelve(&store).await;
    let page = list(&store, &ListQuery { from: key_of(&all[5]), ..query(6) }).await;
    assert_eq!(page, Page { items: all[6..].to_vec(), has_newer: true, has_older: false });
}

async fn one_project(store: Arc<dyn Store>) {
    for number in 1..=6 {
        let mut record = record(number);
        record.project = project(1 + number % 2);
        insert(&store, &record).await.expect("inserted");
    }
    let page = list(&store, &query(2)).await;
    assert!(page.items.iter().all(|record| record.project == project(1)), "{page:?}");
    assert!(page.has_older && !page.has_newer);
    let nobody = ListQuery { project: project(3), ..query(2) };
    assert_eq!(list(&store, &nobody).await.items, []);
}

async fn by_status(store: Arc<dyn Store>) {
    let mut wanted = Vec::new();
    for number in 1..=6 {
        let pending = record(number);
        insert(&store, &pending).await.expect("inserted");
        if number % 2 == 0 {
            let running = running(&pending);
            update(&store, &running).await.expect("updated");
            wanted.insert(0, running);
        }
    }
    insert_ended(&store, &record(7), T0).await;
    let of_running = ListQuery { status: Some(SandboxStatus::Running), ..query(2) };
    let page = list(&store, &of_running).await;
    assert_eq!(page, Page { items: wanted[..2].to_vec(), has_newer: false, has_older: true });
    let from = page.items.last().and_then(key_of);
    let page = list(&store, &ListQuery { from, ..of_running }).await;
    assert_eq!(page, Page { items: wanted[2..].to_vec(), has_newer: true, has_older: false });
    for (status, count) in
        [(SandboxStatus::Pending, 3), (SandboxStatus::Terminated, 1), (SandboxStatus::Suspended, 0)]
    {
        let query = ListQuery { status: Some(status), ..query(10) };
        assert_eq!(list(&store, &query).await.items.len(), count, "{status:?}");
    }
    let mut last = running(&record(8));
    last.sequence = 1;
    store.sandbox_insert(&last, SandboxStatus::Running).await.expect("inserted");
    for status in [SandboxStatus::Snapshotting, SandboxStatus::Suspending, SandboxStatus::Suspended]
    {
        last = advance(&last);
        store.sandbox_update(&last, status, Lasting::Always).await.expect("updated");
        let query = ListQuery { status: Some(status), ..query(10) };
        assert_eq!(list(&store, &query).await.items, [last.clone()], "{status:?}");
    }
}

async fn archive(store: Arc<dyn Store>) {
    insert(&store, &record(1)).await.expect("inserted");
    for (number, end) in [(2, 10), (3, 20), (4, 30)] {
        insert_ended(&store, &record(number), T0.plus_secs(end)).await;
    }
    for (bound, archived, expected) in [
        (9, false, vec![4, 3, 2, 1]),
        (9, true, vec![]),
        (20, false, vec![4, 1]),
        (20, true, vec![3, 2]),
        (30, false, vec![1]),
        (30, true, vec![4, 3, 2]),
    ] {
        let query = ListQuery { archived, archived_before: T0.plus_secs(bound), ..query(10) };
        let page = list(&store, &query).await;
        let ids: Vec<_> = page.items.iter().map(|item| item.id.clone()).collect();
        let expected: Vec<_> = expected.into_iter().map(|number| record(number).id).collect();
        assert_eq!(ids, expected, "bound {bound}, archived {archived}");
    }
}

async fn archive_pages(store: Arc<dyn Store>) {
    for number in 1..=9 {
        // Every third one lives or is not archived yet; the pages must step over those.
        match number % 3 {
            0 => insert(&store, &record(number)).await.expect("inserted"),
            1 => insert_ended(&store, &record(number), T0.plus_secs(10)).await,
            _ => insert_ended(&store, &record(number), T0.plus_secs(99)).await,
        }
    }
    let archived_before = T0.plus_secs(50);
    let archived = ListQuery { archived: true, archived_before, ..query(2) };
    let first = list(&store, &archived).await;
    let ids: Vec<_> = first.items.iter().map(|item| item.id.clone()).collect();
    assert_eq!(ids, [record(7).id, record(4).id]);
    assert!(first.has_older && !first.has_newer);
    let from = first.items.last().and_then(key_of);
    let second = list(&store, &ListQuery { from, ..archived }).await;
    let ids: Vec<_> = second.items.iter().map(|item| item.id.clone()).collect();
    assert_eq!(ids, [record(1).id]);
    assert!(second.has_newer && !second.has_older);
    let rest = ListQuery { archived_before, ..query(10) };
    assert_eq!(list(&store, &rest).await.items.len(), 6);
}
