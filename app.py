"""The Streamlit app: `streamlit run app.py`.

Streamlit imports this file once as a module, when the server starts, and runs it as a script for every visitor.
"""

if __name__ == "__main__":
    from oasisvq.app.frame import frame, navigation

    page = navigation()
    links = frame(page)
    try:
        page.run()
    finally:  # a page may end early
        links.draw()
else:
    from starlette.middleware import Middleware
    from streamlit.starlette import App

    from oasisvq.app.guard import Guarded
    from oasisvq.app.warm_up import warm_up

    app = App(__file__, lifespan=warm_up, middleware=[Middleware(Guarded)])
