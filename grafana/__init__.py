"""
Dashboards as code: builds the JSON of `grafana/dashboards/` from plain dictionaries. It imports no other room and never
talks to a Grafana.

Each module builds one dashboard and is named after the operator's question; `python -m grafana` writes them all.
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""
