//! What the server counts (`/metrics`), as an administrator sees it.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use weir_testkit::oracle::server::Server;

/// Counters and sizes at one moment. Tables are those of the tenants that are measured; the
/// server's own rows (tenant `system`) are left out where they can be told apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) table_rows: f64,
    pub(crate) table_bytes: f64,
    pub(crate) table_files: f64,
    pub(crate) tail_rows: f64,
    pub(crate) flushed_rows: f64,
    pub(crate) flushed_bytes: f64,
    pub(crate) compacted_rows: f64,
    pub(crate) compacted_bytes: f64,
    pub(crate) log_bytes: f64,
    pub(crate) commits: f64,
}

impl Counts {
    /// Reads them.
    pub(crate) async fn of(server: &Server) -> Result<Self> {
        let admin = [("authorization", format!("Bearer {}", server.admin_key))];
        let reply = server.http.request(Method::GET, &server.addresses.http, "/metrics", &admin, Bytes::new()).await?;
        let reply = reply.map_err(|reason| anyhow::anyhow!("no metrics: {reason}"))?;
        anyhow::ensure!(reply.status == 200, "no metrics: {}", reply.text());
        let text = std::str::from_utf8(&reply.body).context("metrics are text")?;
        Ok(Self::parse(text))
    }

    fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.contains("tenant=\"system\"")) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let name = series.split_once('{').map_or(series, |(name, _)| name);
            let place = match name {
                "weir_table_rows" => &mut counts.table_rows,
                "weir_table_bytes" => &mut counts.table_bytes,
                "weir_table_files" => &mut counts.table_files,
                "weir_table_tail_rows" => &mut counts.tail_rows,
                "weir_flushed_rows_total" => &mut counts.flushed_rows,
                "weir_flushed_bytes_total" => &mut counts.flushed_bytes,
                "weir_compacted_rows_total" => &mut counts.compacted_rows,
                "weir_compacted_bytes_total" => &mut counts.compacted_bytes,
                "weir_log_written_bytes_total" => &mut counts.log_bytes,
                "weir_log_commits_total" => &mut counts.commits,
                _ => continue,
            };
            *place += value;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_summed_without_the_servers_own() {
        let text = "# HELP weir_table_rows Rows.\nweir_table_rows{tenant=\"a\",stream=\"logs\"} 5\n\
                    weir_table_rows{tenant=\"system\",stream=\"logs\"} 7\nweir_table_rows{tenant=\"b\",stream=\"logs\"} 2\n\
                    weir_log_commits_total 9\n";
        let counts = Counts::parse(text);
        assert_eq!((counts.table_rows, counts.commits), (7.0, 9.0));
    }
}
