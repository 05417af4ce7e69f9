"""The Streamlit app: `streamlit run app.py`."""

from oasisvq.ui.frame import frame, navigation

page = navigation()
frame()
page.run()
