//! What the exposition's library has no words for: families of gauges, and the engine's histograms.

use esker_sync::histogram::Counts;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

/// Gauges of the same name that differ in labels.
pub(crate) struct Labelled<'a>(&'a [(Vec<(&'a str, String)>, i64)]);

impl EncodeMetric for Labelled<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, value) in self.0 {
            let one = encoder.encode_family(labels)?;
            ConstGauge::new(*value).encode(one)?;
        }
        Ok(())
    }
    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// A histogram of the engine's, by powers of two; its values divided by `unit`.
pub(crate) struct Magnitudes<'a>(pub(crate) &'a Counts, pub(crate) f64);

impl EncodeMetric for Magnitudes<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Magnitudes(counts, unit) = *self;
        let bucket = |(largest, count)| match largest {
            u64::MAX => (f64::MAX, count),
            largest => (largest as f64 / unit, count),
        };
        let buckets: Vec<_> = counts.buckets().map(bucket).collect();
        let sum = counts.sum() as f64 / unit;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.count(), &buckets, None)
    }
    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The numbers of an audit trail, where there is one.
pub(crate) fn audited(
    encoder: &mut DescriptorEncoder<'_>,
    audit: Option<&crate::Audit>,
) -> Result<(), fmt::Error> {
    for (name, help, value, grows) in audit.map(crate::Audit::numbers).unwrap_or_default() {
        let name = format!("esker_audit_{name}");
        if grows {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)?;
        } else {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)?;
        }
    }
    Ok(())
}

pub(crate) fn labelled(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[(Vec<(&str, String)>, i64)],
) -> Result<(), fmt::Error> {
    let metric = Labelled(values);
    let one = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(one)
}
