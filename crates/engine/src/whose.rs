//! Whose pipeline a log line belongs to.
//!
//! A pipeline is made of many parts, and a part that warns knows neither the pipeline nor the tenant. Whoever runs a job does
//! it in this scope, which goes along into the job's tasks; whoever writes log lines asks for it.

use weir_base::TenantId;

tokio::task_local! {
    static WHOSE: Whose;
}

/// A pipeline, as log lines name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// Its tenant; outside of a server there is none.
    pub tenant: Option<TenantId>,
    /// Its name.
    pub pipeline: String,
}

impl Whose {
    /// Does `work`, and all tasks of the jobs that it runs, for this pipeline.
    pub async fn around<F: Future>(self, work: F) -> F::Output {
        WHOSE.scope(self, work).await
    }

    /// Does `work` for the pipeline of the current task, if there is one: for work that becomes a task of its own.
    pub(crate) fn along<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
        let whose = WHOSE.try_with(Clone::clone).ok();
        async move {
            match whose {
                Some(whose) => WHOSE.scope(whose, work).await,
                None => work.await,
            }
        }
    }
}

/// Gives names and values of what log lines say of the pipeline they belong to; nothing outside of pipelines.
pub fn pipeline_fields(mut give: impl FnMut(&'static str, &str)) {
    let _ = WHOSE.try_with(|whose| {
        if let Some(tenant) = &whose.tenant {
            give("tenant", tenant.as_str());
        }
        give("pipeline", &whose.pipeline);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<(&'static str, String)> {
        let mut fields = Vec::new();
        pipeline_fields(|name, value| fields.push((name, value.to_owned())));
        fields
    }

    #[tokio::test]
    async fn tasks_of_a_task_belong_to_the_same_pipeline() {
        let whose = Whose { tenant: TenantId::new("acme").ok(), pipeline: "copies".to_owned() };
        let expected = vec![("tenant", "acme".to_owned()), ("pipeline", "copies".to_owned())];
        let found = whose.around(async {
            let (alone, along) = (tokio::spawn(async { fields() }), tokio::spawn(Whose::along(async { fields() })));
            (fields(), alone.await, along.await)
        });
        let (own, alone, along) = found.await;
        assert_eq!((own, along.ok()), (expected.clone(), Some(expected)));
        assert_eq!((alone.ok(), fields()), (Some(Vec::new()), Vec::new()));
    }
}
