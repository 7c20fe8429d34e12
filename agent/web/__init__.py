"""
Answers HTTP requests: the metrics, the query API, the remedies' API, the webhook and the page, behind one access
control. Requests are answered from memory and never touch hardware.
"""
