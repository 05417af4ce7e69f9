"""The Streamlit app: `streamlit run app.py`.

Streamlit imports this file once as a module, when the server starts, and runs it as a script for every visitor.
"""

if __name__ == "__main__":
    from oasisvq.ui.frame import frame, navigation

    page = navigation()
    frame(page)
    page.run()
else:
    from starlette.middleware import Middleware
    from streamlit.starlette import App

    from oasisvq.ui.guard import Guarded
    from oasisvq.ui.warm_up import warm_up

    app = App(__file__, lifespan=warm_up, middleware=[Middleware(Guarded)])
