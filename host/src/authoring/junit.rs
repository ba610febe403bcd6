//! A test run as JUnit XML, which CI services read.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::testing::TestRun;

/// The report: a suite a file of cases, and one for what the component itself ran.
///
/// # Errors
/// When it cannot be written as XML.
pub fn report(run: &TestRun) -> Result<String, String> {
    let mut report = Report::new(&run.bundle);
    let mut suites: Vec<TestSuite> = Vec::new();
    for case in &run.cases {
        let mut status = TestCaseStatus::success();
        if !case.failures.is_empty() {
            let lines = case.failures.iter().map(|failure| {
                format!("{}: expected {}, decided {}", failure.decider.name(), failure.expected, failure.actual)
            });
            status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(lines.collect::<Vec<_>>().join("\n"));
        }
        let mut test = TestCase::new(&case.name, status);
        test.set_classname(&case.file).extra.insert("line".into(), case.line.to_string().into());
        if suites.last().is_none_or(|suite| suite.name.as_str() != case.file) {
            suites.push(TestSuite::new(&case.file));
        }
        if let Some(suite) = suites.last_mut() {
            suite.add_test_case(test);
        }
    }
    let mut own = TestSuite::new("component");
    let mut status = TestCaseStatus::success();
    if !run.own_failures.is_empty() {
        let lines = run
            .own_failures
            .iter()
            .map(|failure| format!("{}: expected {}, got {}", failure.name, failure.expected, failure.actual));
        status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(lines.collect::<Vec<_>>().join("\n"));
    }
    own.add_test_case(TestCase::new("cases and examples, run by the component itself", status));
    report.add_test_suites(suites).add_test_suite(own);
    report.to_string().map_err(|error| error.to_string())
}
