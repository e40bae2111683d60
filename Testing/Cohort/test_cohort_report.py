"""The report of a cohort in Chromium, as its reader has it: sorted, filtered, a case opened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import start_browser
from many_cases import write_cohort
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.manifest import Manifest
from OFLSAM2Core.cohort.outliers import outliers
from OFLSAM2Core.cohort.report import write_report

COUNT = 200


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_cohort(tmp_path_factory.mktemp("many") / "cohort", COUNT))


@pytest.fixture
def page(browser: Chrome, report: Path) -> Chrome:
    browser.get("about:blank")
    browser.get(report.as_uri())
    WebDriverWait(browser, 30).until(cases)  # The rows are made by the page itself.
    return browser


def cases(page: Chrome) -> list[str]:
    """Names of the cases shown, from top to bottom."""
    script = "return [...document.querySelectorAll('#body tr')].map((row) => row.dataset.case)"
    return list(page.execute_script(script))


def column(page: Chrome, title: str) -> list[str]:
    titles = [cell.text for cell in page.find_elements(By.CSS_SELECTOR, "#head th")]
    (number,) = (n for n, text in enumerate(titles, start=1) if text.startswith(title))
    script = (
        f"return [...document.querySelectorAll('#body td:nth-child({number})')]"
        ".map((cell) => cell.textContent)"
    )
    return list(page.execute_script(script))


def sort_by(page: Chrome, title: str) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, "#head th button")
    next(button for button in buttons if button.text.startswith(title)).click()


def numbers(texts: list[str]) -> list[float]:
    return [float(text) for text in texts if text]


def test_the_least_sure_case_comes_first_and_what_has_no_confidence_last(page: Chrome) -> None:
    shown = column(page, "Confidence")
    sure = numbers(shown)
    assert len(shown) == COUNT and len(sure) == COUNT - COUNT // 50
    assert sure == sorted(sure) and shown[: len(sure)] == [text for text in shown if text]


def test_a_click_on_a_column_sorts_by_it_and_another_one_the_other_way(page: Chrome) -> None:
    sort_by(page, "liver")
    rising = numbers(column(page, "liver"))
    assert rising == sorted(rising)
    sort_by(page, "liver")
    falling = numbers(column(page, "liver"))
    assert falling == rising[::-1] and cases(page)[0] == "case_0007"
    sort_by(page, "Case")
    assert cases(page) == sorted(cases(page))


def test_cases_are_found_by_name_state_confidence_and_unusual_volume(page: Chrome) -> None:
    search = page.find_element(By.ID, "search")
    search.send_keys("case_000")
    assert cases(page) and all(name.startswith("case_000") for name in cases(page))
    assert page.find_element(By.ID, "shown").text == f"10 of {COUNT} cases"
    page.find_element(By.ID, "reset").click()
    page.find_element(By.ID, "only-outliers").click()
    assert "case_0007" in cases(page) and len(cases(page)) < 10
    page.find_element(By.ID, "reset").click()
    for state in ("done", "doubtful", "empty"):
        page.find_element(By.CSS_SELECTOR, f"[data-state={state}]").click()
    assert set(column(page, "State")) == {"failed"} and len(cases(page)) == COUNT // 50
    page.find_element(By.ID, "reset").click()
    slider = page.find_element(By.ID, "most")
    slider.send_keys(Keys.HOME)
    assert cases(page) == []
    page.find_element(By.ID, "reset").click()
    assert len(cases(page)) == COUNT


def test_a_case_opens_with_its_picture_volumes_and_slices_and_the_next_one_follows(
    page: Chrome,
) -> None:
    first, second = cases(page)[:2]
    page.find_element(By.CSS_SELECTOR, "#body tr .name button").click()
    dialog = page.find_element(By.ID, "case")
    assert page.find_element(By.ID, "case-name").text == first
    assert "12 (82 voxels expected to be wrong)" in dialog.text and "liver" in dialog.text
    size = page.execute_script(
        "const i = document.querySelector('#case img'); return [i.naturalWidth, i.naturalHeight]"
    )
    assert min(size) > 100
    page.find_element(By.ID, "after").click()
    assert page.find_element(By.ID, "case-name").text == second
    dialog.send_keys(Keys.ARROW_LEFT)
    assert page.find_element(By.ID, "case-name").text == first
    page.find_element(By.ID, "close").click()
    assert not dialog.is_displayed()


def test_pictures_in_sight_are_loaded_and_the_others_wait(page: Chrome) -> None:
    def loaded(driver: Chrome) -> int:
        script = (
            "return [...document.querySelectorAll('.thumb')].filter((i) => i.naturalWidth).length"
        )
        return int(driver.execute_script(script))

    WebDriverWait(page, 20).until(lambda driver: loaded(driver) >= 3)
    assert loaded(page) < 100


def test_unusual_volumes_are_marked_in_the_histogram_and_open_their_case(page: Chrome) -> None:
    mark = page.find_element(By.CSS_SELECTOR, "#histogram circle[data-case=case_0007]")
    bars = page.find_elements(By.CSS_SELECTOR, "#histogram rect.bar")
    assert len(bars) > 5
    mark.click()
    assert page.find_element(By.ID, "case-name").text == "case_0007"
    assert "unlike the rest of the cohort" in page.find_element(By.ID, "case").text


def test_failures_are_listed_with_reason_and_remedy(page: Chrome) -> None:
    listed = page.find_elements(By.CSS_SELECTOR, "#failure-list li")
    assert len(listed) == COUNT // 50
    assert "case_0049" in listed[0].text and "cannot be read" in listed[0].text
    assert "Copy it again." in listed[0].text


def test_the_page_asks_for_nothing_outside_itself_and_complains_of_nothing(
    page: Chrome, report: Path
) -> None:
    page.find_element(By.CSS_SELECTOR, "#body tr").click()
    asked = page.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name for name in asked if not name.startswith("data:")] == []
    assert page.get_log("browser") == []
    links = re.findall(r'(?:src|href)="([^"]*)"', report.read_text())
    assert all(link.startswith("data:") for link in links)


@pytest.mark.slow
def test_a_thousand_cases_are_listed_and_sorted_within_seconds(
    browser: Chrome, tmp_path: Path
) -> None:
    report = write_report(write_cohort(tmp_path / "cohort", 1000))
    browser.get(report.as_uri())
    assert len(cases(browser)) == 1000
    script = """
        const button = document.querySelectorAll('#head th button')[1];
        const started = performance.now();
        button.click();
        document.body.getBoundingClientRect();
        return performance.now() - started;"""
    assert browser.execute_script(script) < 3000


def test_names_are_text_whatever_they_are(browser: Chrome, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=document.title='run'>"
    with Manifest.create(tmp_path) as manifest:
        manifest.begin({"layout": "flat"})
        manifest.waiting(CaseInput(name, "/d/<b>"))
        manifest.failed(name, "input", "<script>document.title='run'</script>", "&amp; <i>")
    browser.get(write_report(tmp_path).as_uri())
    assert cases(browser) == [name]
    assert "<script>document.title='run'</script>" in browser.find_element(By.ID, "failures").text
    assert browser.title.endswith(": cohort")


def test_a_cohort_without_results_has_a_page_too(browser: Chrome, tmp_path: Path) -> None:
    with Manifest.create(tmp_path) as manifest:
        manifest.begin({"layout": "flat"})
        manifest.waiting(CaseInput("a", "/d/a.nii.gz"))
    browser.get(write_report(tmp_path).as_uri())
    assert "1 case not finished yet" in browser.find_element(By.ID, "warning").text
    assert browser.get_log("browser") == []


def test_half_and_twice_the_usual_volume_are_outliers_and_little_spread_is_none() -> None:
    usual = [100.0, 104.0, 97.0, 101.0, 99.0, 103.0, 96.0, 102.0]
    assert outliers([*usual, 200.0, 50.0, None, 0.0]) == [*[False] * 8, True, True, False, False]
    assert outliers(usual) == [False] * 8
    assert outliers([5.0] * 20) == [False] * 20
    assert outliers([*[5.0] * 20, 10.0])[-1]
    assert outliers([1.0, 100.0]) == [False, False]
    assert json.dumps(outliers(usual))
